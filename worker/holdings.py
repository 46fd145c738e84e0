"""What this worker holds: the partitions it owns, the records in flight, and which partitions are being drained.

Pure but for the futures it answers revocations with; whoever calls holds `lock`, but to ask `is_current`.
A record is first read, then handed to the device unless let go, then acknowledged; each counts once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from worker.offsets import OffsetTracker
from worker.sizes import content_bytes
from worker.transport.interface import Offsets, Record, TopicPartition
from worker.work import Work


@dataclass(slots=True)
class _Held:
    """Counts of one partition in one epoch; forgotten whole when the epoch ends."""

    records: int = 0
    bytes: int = 0
    handed: int = 0
    drain: _Drain | None = None


@dataclass(slots=True, eq=False)
class _Drain:
    """One revocation: the partitions that still have records on the device or at the broker."""

    waiting: set[TopicPartition]
    offsets: dict[TopicPartition, int]
    answer: Future[Offsets]


class Holdings:
    """All methods are cheap; none blocks."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._tracker: OffsetTracker[TopicPartition] = OffsetTracker()
        self._held: dict[TopicPartition, _Held] = {}
        self.records = 0
        self.bytes = 0
        self.handed = 0

    # Partitions come and go -------------------------------------------------------------------------------------

    def assigned(self, positions: Offsets) -> None:
        for partition, position in positions.items():
            self._forget(partition)
            self._tracker.assign(partition, position)
            self._held[partition] = _Held()

    def revoked(self, partitions: Iterable[TopicPartition]) -> Future[Offsets]:
        """Lets go of what the device has not begun; answers with the frontiers once the rest is acknowledged."""
        drain = _Drain({p for p in partitions if p in self._held}, {}, Future())
        for partition in drain.waiting:
            if (earlier := self._held[partition].drain) is not None:
                self._settle(earlier, partition)
            self._held[partition].drain = drain
        for partition in list(drain.waiting):
            self._drained(partition)
        if not drain.waiting and not drain.answer.done():
            drain.answer.set_result(drain.offsets)
        return drain.answer

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        for partition in partitions:
            self._forget(partition)

    @property
    def partitions(self) -> list[TopicPartition]:
        return list(self._held)

    # A record's way ---------------------------------------------------------------------------------------------

    def read(self, records: Sequence[Record], now: float) -> list[Work]:
        """Takes charge of records just polled; those of partitions no longer owned are left out."""
        works = []
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            held = self._held.get(partition)
            epoch = self._tracker.epoch(partition)
            if held is None or epoch is None:
                continue
            self._tracker.track(partition, record.offset)
            work = Work(record, partition, epoch, content_bytes(record.key, record.value, record.headers), now)
            held.records += 1
            held.bytes += work.size
            self.records += 1
            self.bytes += work.size
            works.append(work)
        return works

    def is_current(self, work: Work) -> bool:
        return self._tracker.is_current(work.partition, work.epoch)

    def epochs(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """Of those that are ours."""
        return {p: epoch for p in partitions if (epoch := self._tracker.epoch(p)) is not None}

    def are_current(self, epochs: Mapping[TopicPartition, int]) -> bool:
        return all(self._tracker.is_current(partition, epoch) for partition, epoch in epochs.items())

    def wants(self, work: Work) -> bool:
        """Whether it is worth going on with: its partition is ours, in its epoch, and not being drained."""
        return self.is_current(work) and self._held[work.partition].drain is None

    def let_go(self, works: Iterable[Work]) -> None:
        """These will not be handled: their offsets stay uncommitted."""
        for work in works:
            if self.is_current(work):
                self._count_out(self._held[work.partition], work)

    def hand_over(self, work: Work) -> bool:
        """The device begins with it; False, and let go, where nobody wants it any more."""
        if not self.wants(work):
            self.let_go([work])
            return False
        self._held[work.partition].handed += 1
        self.handed += 1
        return True

    def acknowledge(self, work: Work) -> bool:
        """Its result or dead letter is safe, so its offset may be committed. False where its epoch is over."""
        return self._tracker.acknowledge(work.partition, work.epoch, work.record.offset)

    def finish(self, work: Work) -> None:
        """Nothing of it is on its way any more; answers a revocation that waited for it."""
        if self.is_current(work):
            held = self._held[work.partition]
            held.handed -= 1
            self.handed -= 1
            self._count_out(held, work)
            self._drained(work.partition)

    # Commits ----------------------------------------------------------------------------------------------------

    def advance(self, positions: Offsets) -> None:
        self._tracker.advance(positions)

    def committable(self) -> dict[TopicPartition, int]:
        return self._tracker.committable()

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        self._tracker.committed(offsets)

    def unsettled(self) -> int:
        """Records read that no commit can cover yet, they or one before them being still on their way."""
        return self._tracker.unsettled()

    def uncommitted(self) -> int:
        """Records read that no commit covers: a crash repeats them."""
        return self._tracker.uncommitted()

    def frontiers(self) -> dict[TopicPartition, int]:
        return self._tracker.frontiers()

    # ------------------------------------------------------------------------------------------------------------

    def _count_out(self, held: _Held, work: Work) -> None:
        held.records -= 1
        held.bytes -= work.size
        self.records -= 1
        self.bytes -= work.size

    def _drained(self, partition: TopicPartition) -> None:
        held = self._held[partition]
        if held.drain is not None and held.handed == 0:
            drain = held.drain
            drain.offsets.update(self._tracker.committable([partition]))
            held.drain = None
            self._forget(partition)
            self._settle(drain, partition)

    def _forget(self, partition: TopicPartition) -> None:
        held = self._held.pop(partition, None)
        self._tracker.release(partition)
        if held is not None:
            self.records -= held.records
            self.bytes -= held.bytes
            self.handed -= held.handed
            if held.drain is not None:
                self._settle(held.drain, partition)

    @staticmethod
    def _settle(drain: _Drain, partition: TopicPartition) -> None:
        drain.waiting.discard(partition)
        if not drain.waiting and not drain.answer.done():
            drain.answer.set_result(drain.offsets)
