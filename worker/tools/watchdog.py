"""Kills a process once this one is gone, however it went: nothing started for a demo or a test outlives it."""

from __future__ import annotations

import subprocess


class Watchdog:
    """A shell that waits at a pipe; to be released once the process has ended."""

    def __init__(self, pid: int) -> None:
        # When our end of the pipe closes without a line, we are gone.
        watch = f"read -r line || kill -9 {pid}"
        self._shell = subprocess.Popen(["/bin/sh", "-c", watch], stdin=subprocess.PIPE, start_new_session=True)

    def release(self) -> None:
        self._shell.communicate(b"done\n")
