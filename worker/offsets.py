"""Which offset may be committed: per partition the highest contiguous one, under assignment epochs. Pure.

An offset counts as handled once its result or dead letter is acknowledged. A partition's epoch rises whenever it is
assigned, taken away or read again, so that whatever an older epoch still finishes can be told apart and dropped.
Knows nothing of records, clients or clocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

P = TypeVar("P")  # the partition: any hashable


@dataclass(slots=True)
class _Partition:
    position: int
    committed: int
    read: deque[int] = field(default_factory=deque)
    """From the committed offset on."""
    pending: deque[int] = field(default_factory=deque)
    """From the frontier on."""
    done: set[int] = field(default_factory=set)

    @property
    def frontier(self) -> int:
        return self.pending[0] if self.pending else self.position


class OffsetTracker(Generic[P]):
    """Not synchronised: the caller holds a lock where several threads meet."""

    def __init__(self) -> None:
        self._epochs: dict[P, int] = {}
        self._owned: dict[P, _Partition] = {}

    def assign(self, partition: P, position: int) -> None:
        """`partition` is ours from now on and read from `position`; whatever was in flight is forgotten."""
        self._raise(partition)
        self._owned[partition] = _Partition(position, position)

    def release(self, partition: P) -> None:
        """`partition` is no longer ours: nothing of it will be acknowledged or committed."""
        self._raise(partition)
        self._owned.pop(partition, None)

    def release_all(self) -> None:
        """Gives everything up, as before an abort or rewind."""
        for partition in list(self._owned):
            self.release(partition)

    def owned(self) -> list[P]:
        return list(self._owned)

    def epoch(self, partition: P) -> int | None:
        """Epoch of a partition that is ours, else None."""
        return self._epochs[partition] if partition in self._owned else None

    def is_current(self, partition: P, epoch: int) -> bool:
        return self._epochs.get(partition) == epoch and partition in self._owned

    def track(self, partition: P, offset: int) -> None:
        """`offset` has been read. Offsets of a partition come in rising order, with holes where Kafka has them."""
        state = self._owned[partition]
        if offset < state.position:
            raise ValueError(f"{partition}: offset {offset} read after {state.position - 1}")
        state.read.append(offset)
        state.pending.append(offset)
        state.position = offset + 1

    def acknowledge(self, partition: P, epoch: int, offset: int) -> bool:
        """`offset` is handled. False, and without effect, where `epoch` is over."""
        if not self.is_current(partition, epoch):
            return False
        state = self._owned[partition]
        if state.pending and state.pending[0] == offset:
            state.pending.popleft()
            while state.pending and state.pending[0] in state.done:
                state.done.remove(state.pending.popleft())
        elif state.pending and state.pending[0] < offset < state.position:
            state.done.add(offset)
        else:
            raise ValueError(f"{partition}: offset {offset} acknowledged but not in flight")
        return True

    def advance(self, positions: Mapping[P, int]) -> None:
        """Where nothing is in flight, takes over the reader's position, which passes over markers and holes."""
        for partition, position in positions.items():
            state = self._owned.get(partition)
            if state is not None and not state.pending:
                state.position = max(state.position, position)

    def committable(self, partitions: Iterable[P] | None = None) -> dict[P, int]:
        """Frontiers that no commit covers yet."""
        wanted = self._owned if partitions is None else [p for p in partitions if p in self._owned]
        return {
            partition: frontier
            for partition in wanted
            if (frontier := self._owned[partition].frontier) > self._owned[partition].committed
        }

    def committed(self, offsets: Mapping[P, int]) -> None:
        """These frontiers are on the broker now; an answer that comes late never takes a later one back."""
        for partition, offset in offsets.items():
            if (state := self._owned.get(partition)) is not None:
                state.committed = max(state.committed, offset)
                while state.read and state.read[0] < state.committed:
                    state.read.popleft()

    def unsettled(self) -> int:
        """How many offsets have been read from the frontiers on, handled or not: no commit can cover them yet."""
        return sum(len(state.pending) for state in self._owned.values())

    def uncommitted(self) -> int:
        """How many offsets have been read that no commit covers: those above, and what is handled before them."""
        return sum(len(state.read) for state in self._owned.values())

    def frontiers(self) -> dict[P, int]:
        """First offset not handled yet, of every partition owned."""
        return {partition: state.frontier for partition, state in self._owned.items()}

    def _raise(self, partition: P) -> None:
        self._epochs[partition] = self._epochs.get(partition, 0) + 1
