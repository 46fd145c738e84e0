"""The transport over librdkafka (confluent-kafka), at least once, with both group protocols (KIP-848 too)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

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
from worker.transport.librdkafka_client import Lookup, cause, client_config, complain, native, read_membership
from worker.transport.librdkafka_producer import DroppableProducer
from worker.transport.start import out_of_range, starting_offsets

T = TypeVar("T")

NO_LONGER_A_MEMBER = (
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError._ASSIGNMENT_LOST,
)
INSTANCE_TAKEN = (KafkaError.FENCED_INSTANCE_ID, KafkaError.UNRELEASED_INSTANCE_ID)
FATAL = (
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_MAX_SIZE_REACHED,
)


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
        self._commits: list[tuple[frozenset[tuple[str, int, int]], Future[None]]] = []
        self._fault: Exception | None = None
        self._paused = self._closing = False
        self._membership = b""  # as it was at the last poll or rebalance
        self._member = ""  # its id when it last was one
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
            self._consumer = Consumer(self._consumer_config())
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

    def _consumer_config(self) -> dict[str, Any]:
        kafka, classic = self._kafka, self._kafka.group_protocol == "classic"
        config: dict[str, Any] = {
            **client_config(kafka),
            "group.id": kafka.group_id,
            "group.protocol": kafka.group_protocol,
            "max.poll.interval.ms": int(kafka.max_poll_interval * 1000),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,  # it alone tells that markers and holes at the end were passed over
            "fetch.wait.max.ms": 100,
            "max.partition.fetch.bytes": 2**20,
            "fetch.max.bytes": 2**20,  # of an answer, which is taken in whole: compressed, it may be many times that
            "queued.min.messages": min(10_000, self._settings.in_flight.records),
            "fetch.queue.backoff.ms": 20,  # so that so short a queue does not run dry
            "receive.message.max.bytes": 2**31 - 1,
            "queued.max.messages.kbytes": max(1024, min(16 * 1024, self._settings.in_flight.bytes // 8 // 1024)),
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
        }
        if kafka.instance_id:
            config["group.instance.id"] = kafka.instance_id
        if classic:  # with KIP-848 the brokers decide
            config["partition.assignment.strategy"] = "cooperative-sticky"
            config["session.timeout.ms"] = int(kafka.session_timeout * 1000)
            config["heartbeat.interval.ms"] = int(kafka.heartbeat_interval * 1000)
        return config

    def _open_producer(self) -> DroppableProducer:
        return DroppableProducer(self._kafka, self._listener.delivered, self._limits)

    def joined(self) -> bool:
        return read_membership(self._membership)[0] > 0

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
            self._membership = self._consumer.consumer_group_metadata()
            self._member = read_membership(self._membership)[1].decode() or self._member
        records = []
        for message in messages:
            error = message.error()
            partition = (message.topic(), message.partition())
            if error is not None:
                self._note(error, TopicPartition(*partition), message.offset())
            elif partition in self._positions:
                offset = message.offset()
                self._positions[partition] = offset + 1
                records.append(
                    Record(
                        *partition,
                        offset,
                        message.timestamp()[1],
                        message.key(),
                        message.value(),
                        tuple(message.headers() or ()),
                    )
                )
        if self._fault is not None and not self._closing:
            raise self._fault
        return records

    def _note(self, error: KafkaError, partition: TopicPartition, offset: int) -> None:
        kafka = self._kafka
        if error.code() == KafkaError._PARTITION_EOF:
            if partition in self._positions:
                self._positions[partition] = max(self._positions[partition], offset)
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            first, end = (find([partition])[partition] for find in (self._lookup.beginning, self._lookup.end))
            self._fault = out_of_range(partition, self._positions.get(partition, offset), first, end)
        elif error.code() == KafkaError.INVALID_SESSION_TIMEOUT:
            self._fault = TransportConfigurationError(
                f"kafka.session_timeout {kafka.session_timeout:g} s is outside what the brokers allow "
                "(group.min.session.timeout.ms, group.max.session.timeout.ms)"
            )
        else:
            self._on_error(error)

    def _on_error(self, error: KafkaError) -> None:
        fatal = error.fatal() or error.code() == KafkaError._FATAL
        if error.code() in INSTANCE_TAKEN or (fatal and "instance" in error.str()):  # the code itself gets lost
            self._fault = self._instance_fault()
        elif fatal or error.code() in FATAL:
            self._fault = TransportFault(f"cannot go on in the group {self._kafka.group_id}: {error.str()}")
        else:
            complain(error)

    def _instance_fault(self) -> TransportFault:
        return TransportFault(
            f"another worker with the instance id {self._kafka.instance_id} took over in the group "
            f"{self._kafka.group_id}"
        )

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
        answer: Future[None] = Future()
        owned = {tp: offset for tp, offset in offsets.items() if tp in self._positions}
        if offsets and not owned:
            answer.set_exception(CommitRefused("these partitions belong to another member now"))
        elif not owned:
            answer.set_result(None)
        else:
            self._commits.append((frozenset((*tp, offset) for tp, offset in owned.items()), answer))
            try:
                self._consumer.commit(offsets=native(owned), asynchronous=True)
            except KafkaException as error:
                self._commits.pop()
                answer.set_exception(self._commit_error(cause(error)))
        return answer

    def _on_commit(self, error: KafkaError | None, partitions: list[KafkaPartition]) -> None:
        key = frozenset((p.topic, p.partition, p.offset) for p in partitions)
        error = error or next((p.error for p in partitions if p.error is not None), None)
        for number, (asked, answer) in enumerate(self._commits):
            if asked == key:
                del self._commits[number]
                answer.set_result(None) if error is None else answer.set_exception(self._commit_error(error))
                return

    def _commit_error(self, error: KafkaError) -> Exception:
        if error.code() in INSTANCE_TAKEN:
            return self._instance_fault()
        if error.code() in NO_LONGER_A_MEMBER:
            return CommitRefused(f"the group has moved on without this member: {error.str()}")
        retry: Exception = KafkaException(error)
        return retry

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
                self._leave()
            closing.join(max(0.0, deadline - time.monotonic()))
            self._using.release()
        if hasattr(self, "_admin"):
            self._admin.close()

    def _leave(self) -> None:
        """While a join is under way the broker reads no more from its connection: another one carries the leave."""
        if read_membership(self._membership)[1]:
            with suppress(TransportUnavailable):
                self._remove(self._member)

    def _remove(self, member: str) -> None:
        if not self._kafka.instance_id and self._kafka.group_protocol == "classic":
            with suppress(TransportConfigurationError):  # it has left already
                self._admin.remove_member(self._kafka.group_id, member)

    def _bury(self, member: str) -> None:
        """In a thread of its own, as soon as a broker answers: a client whose session ended without an answer joins as
        somebody new, and the group would wait for the one it was until that one's session has ended there too."""
        deadline = time.monotonic() + self._kafka.outage_deadline
        while not self._closing and time.monotonic() < deadline:
            with suppress(TransportUnavailable):
                self._remove(member)
                return

    def _end_producer(self, timeout: float) -> None:
        self._producer.abandon(timeout)

    # Within `poll` ----------------------------------------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[KafkaPartition]) -> None:
        """Nothing is fetched before it is known from where."""
        self._membership = consumer.consumer_group_metadata()
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
        self._membership = consumer.consumer_group_metadata()
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
        threading.Thread(target=self._bury, args=(self._member,), daemon=True).start()
        gone = self._forget(partitions)
        if gone and not self._closing:
            self._listener.lost(gone)

    def _forget(self, partitions: list[KafkaPartition]) -> set[TopicPartition]:
        gone = {TopicPartition(p.topic, p.partition) for p in partitions} & self._positions.keys()
        for tp in gone:
            del self._positions[tp]
        return gone
