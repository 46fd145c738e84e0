"""Which records make the next batch: first in, first out, by a budget of tokens. Pure; knows no clock and no device.

Late binding: nothing is put together before the device asks. An idle device gets a single record at once, a busy one
finds the queue filled up by itself; hence no linger timer and no batch size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar


class Costed(Protocol):
    @property
    def cost(self) -> int: ...


W = TypeVar("W", bound=Costed)


class TokenQueue(Generic[W]):
    """Not synchronised: the caller holds a lock where several threads meet."""

    def __init__(self) -> None:
        self._waiting: deque[W] = deque()
        self.tokens = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, items: Iterable[W]) -> None:
        for item in items:
            self._waiting.append(item)
            self.tokens += item.cost

    def take(self, budget: int) -> list[W]:
        """The longest run from the front whose cost is within `budget`; one item that alone costs more goes alone."""
        batch: list[W] = []
        room = budget
        while self._waiting:
            cost = self._waiting[0].cost
            if cost > room and room < budget:
                break
            room -= cost
            batch.append(self._waiting.popleft())
        self.tokens -= budget - room
        return batch

    def discard(self, unwanted: Callable[[W], bool]) -> list[W]:
        """Takes out what is not wanted any more; the rest keeps its order."""
        dropped = [item for item in self._waiting if unwanted(item)]
        if dropped:
            self._waiting = deque(item for item in self._waiting if not unwanted(item))
            self.tokens = sum(item.cost for item in self._waiting)
        return dropped
