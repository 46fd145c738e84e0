"""A clock that stands still until the test moves it."""

from __future__ import annotations

import time
from typing import Any


class Clock:
    """Stands in for the module `time`; only its monotonic clock is the test's own."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)
