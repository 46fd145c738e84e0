"""The transport over librdkafka (confluent-kafka), at least once, with both group protocols (KIP-848 too)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from worker.settings import Settings
from worker.transport.admin import Admin
from worker.transport.interface import (
    CommitRefused,
    Listener,
    Offsets,
    Outgoing,
    Record,
    TopicInfo,
    TopicPartition,
    TransportConfigurationError,
    TransportFault,
    TransportUnavailable,
)
from worker.transport.librdkafka_client import Lookup, cause, complain, native, to_record
from worker.transport.librdkafka_group import (
    INSTANCE_TAKEN,
    NO_LONGER_A_MEMBER,
    Commits,
    Membership,
    consumer_config,
    fault_of,
)
from worker.transport.librdkafka_producer import DroppableProducer
from worker.transport.start import out_of_range, starting_offsets

T = TypeVar("T")


class LibrdkafkaTransport:
    """One member of the group, and one producer. Rebalances happen within `poll`, on its thread.

    Only that thread calls the consumer: the binding lets one call in at a time and makes others wait without a queue,
    so that who polls in a loop can keep them waiting for ever.
    """

    name = "librdkafka"

    def __init__(self, settings: Settings) -> None:
        self._settings, self._kafka = settings, settings.kafka
        self._positions: dict[TopicPartition, int] = {}  # of the partitions owned
        self._limits: dict[str, int] = {}
        self._commits = Commits(self._kafka)
        self._membership = Membership(self._kafka)
        self._fault: Exception | None = None
        self._paused = self._closing = False
        self._using = threading.Lock()  # held while polling: closing waits for it
        self._batch = min(1000, settings.in_flight.records)
        # A static member that comes back joins without a rebalance, though partitions may have been added meanwhile.
        self._may_miss_partitions = bool(self._kafka.instance_id and self._kafka.group_protocol == "classic")

    def connect(self, timeout: float) -> None:
        self._admin = Admin(self._kafka, timeout)

    def topic(self, name: str, timeout: float) -> TopicInfo | None:
        info = self._admin.topic(name)
        if info is not None:
            self._limits[name] = info.max_message_bytes
        return info

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self._listener = listener
        self._producer = self._open_producer()
        try:
            self._consumer = Consumer(
                consumer_config(self._settings, error_cb=self._on_error, on_commit=self._commits.answered)
            )
        except KafkaException as error:
            raise TransportConfigurationError(f"librdkafka refuses the settings: {cause(error).str()}") from error
        self._lookup = Lookup(self._consumer, self._admin)
        self._topics = list(topics)
        self._join()

    def _join(self) -> None:
        self._consumer.subscribe(
            self._topics, on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def _find_missed_partitions(self) -> None:
        """Joins again where it may be the leader of a group that has overlooked partitions: that makes it look."""
        self._may_miss_partitions = False
        with suppress(TransportUnavailable, TransportConfigurationError):
            if self._admin.nobodys(self._kafka.group_id, self._topics):
                self._consumer.unsubscribe()
                self._join()

    def _open_producer(self) -> DroppableProducer:
        return DroppableProducer(self._kafka, self._listener.delivered, self._limits)

    def joined(self) -> bool:
        return self._membership.joined

    def poll(self, timeout: float) -> list[Record]:
        with self._using:
            if self._closing:
                return []
            if self._may_miss_partitions and self._positions:
                self._find_missed_partitions()
            # Asked for many at once, it waits for all of them until the time is up.
            messages = self._consumer.consume(1, timeout)
            if messages:
                messages += self._consumer.consume(self._batch - 1, 0)
            self._membership.read(self._consumer)
        records = []
        for message in messages:
            error = message.error()
            partition = (message.topic(), message.partition())
            if error is not None:
                self._note(error, TopicPartition(*partition), message.offset())
            elif partition in self._positions:
                self._positions[partition] = message.offset() + 1
                records.append(to_record(message))
        if self._fault is not None and not self._closing:
            raise self._fault
        return records

    def _note(self, error: KafkaError, partition: TopicPartition, offset: int) -> None:
        if error.code() == KafkaError._PARTITION_EOF:
            if partition in self._positions:
                self._positions[partition] = max(self._positions[partition], offset)
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            first, end = (find([partition])[partition] for find in (self._lookup.beginning, self._lookup.end))
            at = self._positions.get(partition, offset)
            self._fault = out_of_range(self._kafka.group_id, partition, at, first, end)
        else:
            self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        fault = fault_of(error, self._kafka)
        if fault is None:
            complain(error)
        self._fault = fault or self._fault

    def pause(self) -> None:
        self._paused = True
        self._consumer.pause(native(self._positions))

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self._consumer.resume(native(self._positions))

    def positions(self) -> Offsets:
        return dict(self._positions)

    def end_offsets(self, timeout: float) -> Offsets:
        try:
            return self._admin.end(list(self._positions), timeout)
        except (TransportUnavailable, TransportConfigurationError):
            return {}

    def commit(self, offsets: Offsets) -> Future[None]:
        owned = {tp: offset for tp, offset in offsets.items() if tp in self._positions}
        if owned:
            return self._commits.begin(self._consumer, owned)
        answer: Future[None] = Future()
        if offsets:
            answer.set_exception(CommitRefused("these partitions belong to another member now"))
        else:
            answer.set_result(None)
        return answer

    def send(self, record: Outgoing) -> None:
        self._producer.send(record)

    def commit_transaction(self, offsets: Offsets, still_owned: Callable[[], bool], timeout: float) -> None:
        raise TransportFault("this transport delivers at least once")

    def recover(self) -> Offsets:
        self._renew_producer()
        positions = self._insist(
            "the committed offsets cannot be read",
            lambda: starting_offsets(self._positions, self._kafka.start, self._lookup, self._lookup.commit),
        )
        for tp, offset in positions.items():
            target = KafkaPartition(tp.topic, tp.partition, offset)
            self._insist(f"cannot read {tp} again", partial(self._consumer.seek, target))
        self._positions.update(positions)
        return positions

    def _renew_producer(self) -> None:
        self._producer.abandon()
        self._producer = self._open_producer()

    def _insist(self, problem: str, call: Callable[[], T]) -> T:
        """Repeats `call` while no broker answers, up to the outage deadline."""
        deadline = time.monotonic() + self._kafka.outage_deadline
        while True:
            try:
                return call()
            except KafkaException as error:
                if time.monotonic() > deadline or self._closing or cause(error).fatal():
                    raise TransportFault(f"{problem}: {cause(error).str()}") from error
                time.sleep(0.05)

    def close(self, timeout: float) -> None:
        self._closing = True
        deadline = time.monotonic() + timeout
        if hasattr(self, "_producer"):
            self._end_producer(timeout / 2)
        if hasattr(self, "_consumer") and self._using.acquire(timeout=timeout / 2):
            closing = threading.Thread(target=self._consumer.close, daemon=True)
            closing.start()  # the client waits for brokers without a limit
            closing.join(timeout / 8)
            if closing.is_alive():
                self._membership.leave(self._admin)
            closing.join(max(0.0, deadline - time.monotonic()))
            self._using.release()
        if hasattr(self, "_admin"):
            self._admin.close()

    def _end_producer(self, timeout: float) -> None:
        self._producer.abandon(timeout)

    # Within `poll` ----------------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """Nothing is fetched before it is known from where."""
        self._membership.read(consumer)
        owned = [TopicPartition(p.topic, p.partition) for p in partitions]
        try:
            positions = self._insist(
                "the committed offsets cannot be read",
                lambda: starting_offsets(owned, self._kafka.start, self._lookup, self._lookup.commit),
            )
        except TransportFault as fault:
            self._fault = fault
            return
        consumer.incremental_assign(native(positions))
        # Said either way: the client remembers what a partition was when it went, which may be long ago.
        (consumer.pause if self._paused else consumer.resume)(native(positions))
        self._positions.update(positions)
        if positions:
            self._listener.assigned(positions)

    def _on_revoke(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """Lets the listener drain and commits its answer; returning lets the group hand the partitions on. Heartbeats
        go on meanwhile, in the client's own thread."""
        gone = self._forget(partitions)
        if not gone or self._closing:
            return
        self._membership.read(consumer)
        deadline = time.monotonic() + max(5.0, 0.2 * self._kafka.max_poll_interval)
        answer = self._listener.revoked(gone)
        while not answer.done() and not self._closing and time.monotonic() < deadline:
            time.sleep(0.005)
        if not answer.done():
            self._listener.lost(gone)
            return
        offsets = {tp: offset for tp, offset in answer.result().items() if tp in gone}
        while offsets and not self._closing and time.monotonic() < deadline:
            try:
                self._lookup.commit(offsets)
                return
            except KafkaException as error:
                if cause(error).code() in (*NO_LONGER_A_MEMBER, *INSTANCE_TAKEN) or cause(error).fatal():
                    return  # the new owner reads these again
                time.sleep(0.1)

    def _on_lost(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        bury = partial(self._membership.bury, self._admin, self._membership.last_id, lambda: self._closing)
        threading.Thread(target=bury, daemon=True).start()
        gone = self._forget(partitions)
        if gone and not self._closing:
            self._listener.lost(gone)

    def _forget(self, partitions: list[KafkaPartition]) -> set[TopicPartition]:
        gone = {TopicPartition(p.topic, p.partition) for p in partitions} & self._positions.keys()
        for tp in gone:
            del self._positions[tp]
        return gone
