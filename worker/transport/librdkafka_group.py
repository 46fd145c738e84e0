"""A member of a group over librdkafka: its consumer's configuration, what errors mean to it, its commits, its leave.

Knows nothing of producing, nor of what is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as KafkaPartition

from worker.settings import KafkaSettings, Settings
from worker.transport.admin import Admin
from worker.transport.interface import (
    CommitRefused,
    Offsets,
    TransportConfigurationError,
    TransportFault,
    TransportUnavailable,
)
from worker.transport.librdkafka_client import cause, client_config, native, read_membership

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


def consumer_config(settings: Settings, **callbacks: Callable[..., None]) -> dict[str, Any]:
    """In librdkafka's names; `callbacks` likewise."""
    kafka, in_flight = settings.kafka, settings.in_flight
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
        "queued.min.messages": min(10_000, in_flight.records),
        "fetch.queue.backoff.ms": 20,  # so that so short a queue does not run dry
        "receive.message.max.bytes": 2**31 - 1,
        "queued.max.messages.kbytes": max(1024, min(16 * 1024, in_flight.bytes // 8 // 1024)),
        **callbacks,
    }
    if kafka.instance_id:
        config["group.instance.id"] = kafka.instance_id
    if kafka.group_protocol == "classic":  # with KIP-848 the brokers decide
        config["partition.assignment.strategy"] = "cooperative-sticky"
        config["session.timeout.ms"] = int(kafka.session_timeout * 1000)
        config["heartbeat.interval.ms"] = int(kafka.heartbeat_interval * 1000)
    return config


def fault_of(error: KafkaError, kafka: KafkaSettings) -> Exception | None:
    """Why the worker must end; None where the client goes on by itself."""
    fatal = error.fatal() or error.code() == KafkaError._FATAL
    if error.code() in INSTANCE_TAKEN or (fatal and "instance" in error.str()):  # the code itself gets lost
        return _instance_fault(kafka)
    if error.code() == KafkaError.INVALID_SESSION_TIMEOUT:
        return TransportConfigurationError(
            f"kafka.session_timeout {kafka.session_timeout:g} s is outside what the brokers allow "
            "(group.min.session.timeout.ms, group.max.session.timeout.ms)"
        )
    if fatal or error.code() in FATAL:
        return TransportFault(f"cannot go on in the group {kafka.group_id}: {error.str()}")
    return None


def _instance_fault(kafka: KafkaSettings) -> TransportFault:
    return TransportFault(
        f"another worker with the instance id {kafka.instance_id} took over in the group {kafka.group_id}"
    )


class Commits:
    """Commits on their way. The client's answer names the offsets, not the call: the oldest with these is meant."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self._pending: list[tuple[frozenset[tuple[str, int, int]], Future[None]]] = []

    def begin(self, consumer: Consumer, offsets: Offsets) -> Future[None]:
        answer: Future[None] = Future()
        self._pending.append((frozenset((*tp, offset) for tp, offset in offsets.items()), answer))
        try:
            consumer.commit(offsets=native(offsets), asynchronous=True)
        except KafkaException as error:
            self._pending.pop()
            answer.set_exception(self._meaning(cause(error)))
        return answer

    def answered(self, error: KafkaError | None, partitions: list[KafkaPartition]) -> None:
        """To be the client's `on_commit`."""
        key = frozenset((p.topic, p.partition, p.offset) for p in partitions)
        error = error or next((p.error for p in partitions if p.error is not None), None)
        for number, (asked, answer) in enumerate(self._pending):
            if asked == key:
                del self._pending[number]
                answer.set_result(None) if error is None else answer.set_exception(self._meaning(error))
                return

    def _meaning(self, error: KafkaError) -> Exception:
        if error.code() in INSTANCE_TAKEN:
            return _instance_fault(self._kafka)
        if error.code() in NO_LONGER_A_MEMBER:
            return CommitRefused(f"the group has moved on without this member: {error.str()}")
        retry: Exception = KafkaException(error)
        return retry


class Membership:
    """Who this client is in its group, and how it leaves where it cannot say so itself."""

    def __init__(self, kafka: KafkaSettings) -> None:
        self._kafka = kafka
        self.metadata = b""
        """As it was when last read."""
        self.last_id = ""
        """Its id when it last was a member."""

    def read(self, consumer: Consumer) -> None:
        """Called on the polling thread only."""
        self.metadata = consumer.consumer_group_metadata()
        self.last_id = read_membership(self.metadata)[1].decode() or self.last_id

    @property
    def joined(self) -> bool:
        return read_membership(self.metadata)[0] > 0

    def leave(self, admin: Admin) -> None:
        """While a join is under way the broker reads no more from its connection: another one carries the leave."""
        if read_membership(self.metadata)[1]:
            with suppress(TransportUnavailable):
                self._remove(admin, self.last_id)

    def bury(self, admin: Admin, member: str, closing: Callable[[], bool]) -> None:
        """In a thread of its own, as soon as a broker answers: a client whose session ended without an answer joins as
        somebody new, and the group would wait for the one it was until that one's session has ended there too."""
        deadline = time.monotonic() + self._kafka.outage_deadline
        while not closing() and time.monotonic() < deadline:
            with suppress(TransportUnavailable):
                self._remove(admin, member)
                return

    def _remove(self, admin: Admin, member: str) -> None:
        if not self._kafka.instance_id and self._kafka.group_protocol == "classic":
            with suppress(TransportConfigurationError):  # it has left already
                admin.remove_member(self._kafka.group_id, member)
