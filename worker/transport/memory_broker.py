"""A Kafka in memory for unit tests: logs with transactions, groups with generations, and faults on demand.

Deterministic: it has no threads and no clock but the one given. Knows nothing of the wire; what it does is checked
against Apache Kafka by the conformance suite. `MemoryTransport` is its client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from schemas.headers import Headers
from worker.transport.interface import DeliveryFailed, Offsets, Outgoing, Record, TopicInfo, TopicPartition

RECORD_OVERHEAD = 70  # bytes that Kafka adds to a batch of one record, about


@dataclass(slots=True)
class Transaction:
    state: str = "open"  # then committed or aborted
    touched: set[TopicPartition] = field(default_factory=set)


@dataclass(slots=True)
class Entry:
    """What stands at one offset; without a record it is a transaction marker or was compacted away."""

    record: Record | None
    transaction: Transaction | None = None


@dataclass(slots=True)
class Log:
    entries: list[Entry] = field(default_factory=list)
    begin: int = 0

    def stable_end(self) -> int:
        """The first offset of an open transaction, or the end."""
        for offset, entry in enumerate(self.entries):
            if entry.transaction and entry.transaction.state == "open":
                return offset
        return len(self.entries)

    def readable(self, offset: int) -> Iterator[tuple[int, Record | None]]:
        """Offsets from here on with their records; None where a reader of committed data passes over."""
        for at in range(offset, self.stable_end()):
            entry = self.entries[at]
            aborted = entry.transaction and entry.transaction.state == "aborted"
            yield at, None if aborted else entry.record


@dataclass(slots=True)
class Group:
    """Who is in it, who reads what, and what is committed. `generation` rises with every change."""

    generation: int = 0
    members: dict[str, tuple[str, ...]] = field(default_factory=dict)
    owners: dict[TopicPartition, str] = field(default_factory=dict)
    committed: dict[TopicPartition, int] = field(default_factory=dict)

    def target(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, str]:
        """Who should own what: shares as equal as they can be, moving as little as possible."""
        room = {
            member: len(partitions) // len(self.members) + (at < len(partitions) % len(self.members))
            for at, member in enumerate(self.members)
        }
        result: dict[TopicPartition, str] = {}
        for tp in sorted(partitions):
            owner = self.owners.get(tp, "")
            if room.get(owner):
                result[tp] = owner
                room[owner] -= 1
        for tp in sorted(set(partitions) - set(result)):
            member = next(name for name, left in room.items() if left)
            result[tp] = member
            room[member] -= 1
        return result


class MemoryBroker:
    """All state of the cluster, under one lock; `changed` wakes whoever waits.

    Faults, to be set at any time: `down` answers nothing, `refuse_produce` decides for each record, `hold_acks` keeps
    acknowledgements back, `refuse_commit` fails offset commits, `abort_commits` aborts that many transactions.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.clock = clock
        self.topics: dict[str, TopicInfo] = {}
        self.logs: dict[TopicPartition, Log] = {}
        self.groups: dict[str, Group] = {}
        self.producers: dict[str, object] = {}  # transactional id to the transport that holds it
        self.down = False
        self.hold_acks = False
        self.refuse_produce: Callable[[Outgoing], DeliveryFailed | None] = lambda record: None
        self.refuse_commit: Exception | None = None
        self.abort_commits = 0

    def create_topic(
        self, name: str, partitions: int = 1, *, max_message_bytes: int = 1048588, cleanup_policy: str = "delete"
    ) -> None:
        with self.changed:
            self.topics[name] = TopicInfo(partitions, max_message_bytes, cleanup_policy)
            self.logs.update({TopicPartition(name, number): Log() for number in range(partitions)})

    def add_partitions(self, topic: str, total: int) -> None:
        """Raises the number of partitions; members of every group learn of it at their next poll."""
        with self.changed:
            before = self.topics[topic].partitions
            self.topics[topic] = replace(self.topics[topic], partitions=total)
            self.logs.update({TopicPartition(topic, number): Log() for number in range(before, total)})
            for group in self.groups.values():
                group.generation += 1
            self.changed.notify_all()

    def partitions(self, topics: Iterable[str]) -> list[TopicPartition]:
        return [TopicPartition(topic, n) for topic in topics for n in range(self.topics[topic].partitions)]

    def group(self, name: str) -> Group:
        return self.groups.setdefault(name, Group())

    def append(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        transaction: Transaction | None = None,
        timestamp: int | None = None,
    ) -> int:
        """Writes a record as any producer would; returns its offset."""
        with self.changed:
            tp = TopicPartition(topic, partition)
            log = self.logs[tp]
            at = int(self.clock() * 1000) if timestamp is None else timestamp
            record = Record(topic, partition, len(log.entries), at, key, value, tuple(headers))
            log.entries.append(Entry(record, transaction))
            if transaction:
                transaction.touched.add(tp)
            self.changed.notify_all()
            return record.offset

    def end_transaction(self, transaction: Transaction, *, commit: bool) -> None:
        """Decides it, and leaves a marker at the end of every partition it touched."""
        with self.changed:
            transaction.state = "committed" if commit else "aborted"
            for tp in transaction.touched:
                self.logs[tp].entries.append(Entry(None))
            self.changed.notify_all()

    @contextmanager
    def transaction(self, *, commit: bool = True) -> Iterator[Transaction]:
        """Another producer's transaction, for `append`."""
        transaction = Transaction()
        yield transaction
        self.end_transaction(transaction, commit=commit)

    def compact(self, topic: str) -> None:
        """Removes every record that a later one with the same key replaces, leaving holes."""
        with self.changed:
            for tp in self.partitions([topic]):
                seen: set[bytes | None] = set()
                for entry in reversed(self.logs[tp].entries):
                    if entry.record and entry.record.key in seen:
                        entry.record = None
                    elif entry.record:
                        seen.add(entry.record.key)

    def delete_records(self, tp: TopicPartition, before: int) -> None:
        """As retention does: the log begins at `before` from now on."""
        with self.changed:
            self.logs[tp].begin = before

    def read(self, topic: str) -> list[Record]:
        """Every record that a reader of committed data sees, by partition and offset."""
        with self.changed:
            logs = [self.logs[tp] for tp in self.partitions([topic])]
            return [record for log in logs for _, record in log.readable(log.begin) if record]

    def committed(self, group: str) -> Offsets:
        with self.changed:
            return dict(self.group(group).committed)

    def release_acks(self) -> None:
        """Ends `hold_acks`: what was kept back is delivered at the next polls."""
        with self.changed:
            self.hold_acks = False
            self.changed.notify_all()

    def expel(self, group: str, member: str) -> None:
        """As after a missed session: the member's partitions are free at once, and it learns of it at its next poll."""
        with self.changed:
            state = self.group(group)
            state.members.pop(member, None)
            self.release(group, [tp for tp, owner in state.owners.items() if owner == member])

    def release(self, group: str, partitions: Iterable[TopicPartition]) -> None:
        with self.changed:
            for tp in partitions:
                self.group(group).owners.pop(tp, None)
            self.group(group).generation += 1
            self.changed.notify_all()

    def write(self, record: Outgoing, transaction: Transaction | None) -> DeliveryFailed | None:
        """A transport's produce request: the reason why it is refused, or None once written."""
        with self.changed:
            refusal = self.refuse_produce(record)
            if refusal:
                return refusal
            if TopicPartition(record.topic, record.partition) not in self.logs:
                return DeliveryFailed(f"no partition {record.partition} of topic {record.topic}")
            size = RECORD_OVERHEAD + len(record.key or b"") + len(record.value or b"")
            size += sum(len(name.encode()) + len(value or b"") + 2 for name, value in record.headers)
            if size > self.topics[record.topic].max_message_bytes:
                return DeliveryFailed(f"a record of about {size} bytes is too large for {record.topic}", too_large=True)
            self.append(record.topic, record.partition, record.key, record.value, record.headers, transaction)
            return None
