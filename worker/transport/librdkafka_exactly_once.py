"""The transport over librdkafka, exactly once: results and offsets in one transaction (KIP-447)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import suppress

from confluent_kafka import KafkaException

from worker.settings import Settings
from worker.transport.interface import Offsets, TransactionAborted, TransportFault
from worker.transport.librdkafka import LibrdkafkaTransport
from worker.transport.librdkafka_client import cause, read_membership
from worker.transport.librdkafka_producer import DroppableProducer


class LibrdkafkaExactlyOnceTransport(LibrdkafkaTransport):
    """Its transactional id is the group's and the instance's, or random where there is no instance id."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._transactional_id = f"{self._kafka.group_id}-{self._kafka.instance_id or uuid.uuid4().hex}"

    def _open_producer(self) -> DroppableProducer:
        producer = DroppableProducer(self._kafka, self._listener.delivered, self._limits, self._transactional_id)
        self._insist("no transaction coordinator answers", lambda: producer.begin_session(5))
        return producer

    def commit_transaction(self, offsets: Offsets, still_owned: Callable[[], bool], timeout: float) -> None:
        producer, deadline = self._producer, time.monotonic() + timeout
        if not producer.open and not offsets:
            return
        if not producer.flush(timeout):
            raise TransactionAborted("the broker has not acknowledged in time what was sent")
        if producer.replaced(producer.failed):
            raise self._replaced()
        if producer.failed is not None:
            raise TransactionAborted(f"a record was refused: {producer.failed.str()}")
        try:
            producer.commit(offsets, self._current_membership(still_owned), deadline - time.monotonic())
        except KafkaException as error:
            if producer.replaced(cause(error)):
                raise self._replaced() from None
            raise TransactionAborted(f"the transaction was not committed: {cause(error).str()}") from error

    def _current_membership(self, still_owned: Callable[[], bool]) -> bytes:
        """The broker would take offsets without a generation from anybody, and shut nobody out. The membership is read
        first: what is lost after that is refused by the broker, what was lost before is no longer owned."""
        membership = self._membership.metadata
        generation, member = read_membership(membership)
        if generation <= 0 or not member or not still_owned():
            raise TransactionAborted("it holds results of partitions that have gone to another member")
        return membership

    def _replaced(self) -> TransportFault:
        return TransportFault(f"another worker with the transactional id {self._transactional_id} took over")

    def _renew_producer(self) -> None:
        self._insist("the transaction cannot be aborted", self._abort)

    def _abort(self) -> None:
        self._producer.silence()
        try:
            self._producer.abort(5)
        except KafkaException as error:
            if not (cause(error).fatal() or self._producer.stuck):
                raise
            if self._producer.replaced(cause(error)):
                raise self._replaced() from None
            self._producer.abandon()
            self._producer = self._open_producer()

    def _end_producer(self, timeout: float) -> None:
        with suppress(KafkaException):  # the broker does it by itself after the transaction timeout
            self._producer.abort(timeout)
        super()._end_producer(timeout)
