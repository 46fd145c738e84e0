"""The transport over `MemoryBroker`, for unit tests: no threads of its own, so deliveries are reported within `poll`.

Passes the conformance suite like the real ones; see there for what each method promises.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from typing import Any

from worker.settings import Settings
from worker.transport.interface import (
    CommitRefused,
    DeliveryFailed,
    Listener,
    Offsets,
    Outgoing,
    Record,
    TopicInfo,
    TopicPartition,
    TransactionAborted,
    TransportFault,
    TransportUnavailable,
)
from worker.transport.memory_broker import MemoryBroker, Transaction
from worker.transport.start import out_of_range, starting_offsets

POLL_RECORDS = 500


class MemoryTransport:
    """One member of one group and one producer. `drain_timeout`: seconds that `poll` waits for a revoked answer."""

    name = "memory"

    def __init__(self, broker: MemoryBroker, settings: Settings, *, drain_timeout: float = 5.0) -> None:
        self._broker, self._settings, self._drain_timeout = broker, settings, drain_timeout
        self._exactly_once = settings.delivery == "exactly_once"
        self._group_id = settings.kafka.group_id
        self._transactional_id = f"{self._group_id}-{settings.kafka.instance_id or uuid.uuid4().hex}"
        self.member = ""
        self._topics: tuple[str, ...] = ()
        self._seen = -1  # the group's generation that was last acted upon
        self._positions: dict[TopicPartition, int] = {}
        self._paused = self._closed = self._failed = False
        self._deliveries: deque[tuple[Any, DeliveryFailed | None]] = deque()
        self._transaction: Transaction | None = None

    def connect(self, timeout: float) -> None:
        if self._broker.down:
            raise TransportUnavailable("the broker in memory is down")

    def topic(self, name: str, timeout: float) -> TopicInfo | None:
        return self._broker.topics.get(name)

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self._topics, self._listener = tuple(topics), listener
        with self._broker.changed:
            if self._exactly_once:
                fenced = self._broker.producers.get(self._transactional_id)
                if isinstance(fenced, MemoryTransport):
                    fenced._abort()
                self._broker.producers[self._transactional_id] = self

    def poll(self, timeout: float) -> list[Record]:
        deadline = time.monotonic() + timeout
        while not self._closed:
            self._report_deliveries()
            if not self._broker.down:
                self._rebalance()
                records = self._fetch()
                if records:
                    return records
            with self._broker.changed:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    break
                self._broker.changed.wait(min(remaining, 0.02))
        return []

    def _report_deliveries(self) -> None:
        while True:
            with self._broker.changed:
                if not self._deliveries or self._broker.hold_acks or self._broker.down or self._closed:
                    return
                delivery = self._deliveries.popleft()
            self._listener.delivered(*delivery)

    def _rebalance(self) -> None:
        broker = self._broker
        with broker.changed:
            group = broker.group(self._group_id)
            if group.generation == self._seen:
                return
            lost = list(self._positions) if self.member not in group.members else []
            if self.member not in group.members:
                self._positions.clear()
                self.member = uuid.uuid4().hex
                group.members[self.member] = self._topics
                group.generation += 1
            self._seen = group.generation
            target = group.target(broker.partitions(self._topics))
            mine = {tp for tp, owner in target.items() if owner == self.member}
            revoked = [tp for tp in self._positions if tp not in mine]
        if lost:
            self._listener.lost(lost)
        if revoked:
            self._give_up(revoked)
        with broker.changed:
            member = self.member in group.members  # still: it may have been closed or expelled during a drain
            added = [tp for tp in sorted(mine) if tp not in group.owners] if member else []
            group.owners.update(dict.fromkeys(added, self.member))
            if added:
                positions = starting_offsets(added, self._settings.kafka.start, self, group.committed.update)
                self._positions.update(positions)
        if added:
            self._listener.assigned(positions)

    def _give_up(self, revoked: list[TopicPartition]) -> None:
        """Lets the listener drain, commits what it answers, and only then frees the partitions."""
        with self._broker.changed:
            for tp in revoked:
                del self._positions[tp]
        answer = self._listener.revoked(revoked)
        deadline = time.monotonic() + self._drain_timeout
        while not answer.done() and not self._closed and time.monotonic() < deadline:
            self._report_deliveries()
            with self._broker.changed:
                self._broker.changed.wait(0.005)
        if answer.done():
            offsets = answer.result()
            self._broker.group(self._group_id).committed.update(
                {tp: offset for tp, offset in offsets.items() if tp in revoked}
            )
        else:
            self._listener.lost(revoked)
        self._broker.release(self._group_id, revoked)

    def _fetch(self) -> list[Record]:
        records: list[Record] = []
        if self._paused:
            return records
        with self._broker.changed:
            for tp in sorted(self._positions):
                log, position = self._broker.logs[tp], self._positions[tp]
                if not log.begin <= position <= len(log.entries):
                    raise out_of_range(self._group_id, tp, position, log.begin, log.stable_end())
                for offset, record in itertools.islice(log.readable(position), POLL_RECORDS):
                    self._positions[tp] = offset + 1
                    if record:
                        records.append(record)
        return records

    def joined(self) -> bool:
        return self.member in self._broker.group(self._group_id).members

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False

    def positions(self) -> Offsets:
        with self._broker.changed:
            return dict(self._positions)

    def end_offsets(self, timeout: float) -> Offsets:
        with self._broker.changed:
            return {} if self._broker.down else self.end(list(self._positions))

    def commit(self, offsets: Offsets) -> Future[None]:
        future: Future[None] = Future()
        with self._broker.changed:
            group = self._broker.group(self._group_id)
            owned = {tp: offset for tp, offset in offsets.items() if group.owners.get(tp) == self.member}
            if self._broker.down or self._broker.refuse_commit:
                future.set_exception(self._broker.refuse_commit or TimeoutError("the broker is down"))
            elif offsets and not owned:
                future.set_exception(CommitRefused("these partitions belong to another member"))
            else:
                group.committed.update(owned)
                future.set_result(None)
        return future

    def send(self, record: Outgoing) -> None:
        with self._broker.changed:
            if self._exactly_once and self._transaction is None:
                self._transaction = Transaction()
            if self._failed:
                error: DeliveryFailed | None = DeliveryFailed("an earlier record was refused")
            else:
                error = self._broker.write(record, self._transaction)
            self._failed = self._failed or error is not None
            self._deliveries.append((record.token, error))
            self._broker.changed.notify_all()

    def commit_transaction(self, offsets: Offsets, still_owned: Callable[[], bool], timeout: float) -> None:
        broker = self._broker
        deadline = time.monotonic() + timeout
        with broker.changed:
            while broker.hold_acks or broker.down:
                if not broker.changed.wait(max(0.0, deadline - time.monotonic())):
                    self._abort()
                    raise TransactionAborted("the broker did not answer in time")
        self._report_deliveries()
        with broker.changed:
            if self._transaction is None and not offsets:
                return
            self._raise_if_replaced()
            group = broker.group(self._group_id)
            if self._failed or broker.abort_commits or self.member not in group.members or not still_owned():
                broker.abort_commits = max(0, broker.abort_commits - 1)
                self._abort()
                raise TransactionAborted("the transaction was aborted")
            if self._transaction is not None:
                broker.end_transaction(self._transaction, commit=True)
                self._transaction = None
            group.committed.update(offsets)

    def _raise_if_replaced(self) -> None:
        if self._exactly_once and self._broker.producers.get(self._transactional_id) is not self:
            raise TransportFault(f"another worker with the transactional id {self._transactional_id} took over")

    def _abort(self) -> None:
        if self._transaction is not None:
            self._broker.end_transaction(self._transaction, commit=False)
            self._transaction = None

    def recover(self) -> Offsets:
        with self._broker.changed:
            self._abort()
            self._raise_if_replaced()
            self._failed = False
            self._deliveries.clear()
            self._positions.update(
                starting_offsets(self._positions, self._settings.kafka.start, self, lambda offsets: None)
            )
            return dict(self._positions)

    def close(self, timeout: float) -> None:
        with self._broker.changed:
            self._closed = True
            self._abort()
            self._broker.expel(self._group_id, self.member)
            self._broker.changed.notify_all()

    def partitions(self, topic: str) -> Collection[TopicPartition]:
        return self._broker.partitions([topic])

    def committed(self, partitions: Collection[TopicPartition]) -> Offsets:
        committed = self._broker.group(self._group_id).committed
        return {tp: committed[tp] for tp in partitions if tp in committed}

    def beginning(self, partitions: Collection[TopicPartition]) -> Offsets:
        return {tp: self._broker.logs[tp].begin for tp in partitions}

    def end(self, partitions: Collection[TopicPartition]) -> Offsets:
        return {tp: self._broker.logs[tp].stable_end() for tp in partitions}

    def at_time(self, partitions: Collection[TopicPartition], timestamp: int) -> Offsets:
        result: dict[TopicPartition, int] = {}
        for tp in partitions:
            log = self._broker.logs[tp]
            for offset, record in log.readable(log.begin):
                if record and record.timestamp >= timestamp:
                    result[tp] = offset
                    break
        return result
