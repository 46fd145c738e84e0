"""Keeps a client's log readable during an outage."""

from __future__ import annotations

import logging

SECONDS = 60.0
KINDS = 1000  # remembered; some clients put what varies into the message itself


class Sparing(logging.Filter):
    """Lets one line of a kind through each minute: while brokers are away, clients repeat themselves all the time."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.getMessage() if record.msg == "%s" else str(record.msg)
        if record.created - self._said.get(kind, 0.0) < SECONDS:
            return False
        if len(self._said) >= KINDS:
            self._said.clear()
        self._said[kind] = record.created
        return True
