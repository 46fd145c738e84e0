"""When too much of the stream is rejected to go on. Pure: knows neither records nor clocks."""

from __future__ import annotations

from collections import deque


class Breaker:
    """Trips when more than `ratio` of the last `window` records, at least `minimum`, were rejected; 1.0 never trips."""

    def __init__(self, ratio: float, window: int, minimum: int) -> None:
        self._ratio = ratio
        self._minimum = min(minimum, window)
        self._outcomes: deque[bool] = deque(maxlen=window)
        self._rejected = 0

    def record(self, rejected: bool) -> bool:
        """Counts one record; True where the breaker trips on it."""
        if len(self._outcomes) == self._outcomes.maxlen:
            self._rejected -= self._outcomes[0]
        self._outcomes.append(rejected)
        self._rejected += rejected
        seen = len(self._outcomes)
        return seen >= self._minimum and self._rejected > self._ratio * seen

    def __str__(self) -> str:
        return f"{self._rejected} of the last {len(self._outcomes)} records were rejected"
