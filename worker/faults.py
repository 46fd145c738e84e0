"""What can be wrong with a device, as the engine says it and the pipeline hears it."""

from __future__ import annotations


class DeviceFault(Exception):
    """The device gives wrong answers or none: every record is innocent, so none may be rejected for it."""


class OutOfMemory(Exception):
    """The batch did not fit the device's memory."""
