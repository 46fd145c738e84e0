"""The transport over kafka-python 3.0.12, exactly once: results and offsets in one transaction (KIP-447)."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from kafka import errors
from kafka.structs import ConsumerGroupMetadata

from worker.settings import Settings
from worker.transport.interface import (
    Offsets,
    TransactionAborted,
    TransportConfigurationError,
    TransportFault,
)
from worker.transport.kafka_python import KafkaPythonTransport
from worker.transport.kafka_python_client import result
from worker.transport.kafka_python_group import committable
from worker.transport.kafka_python_producer import open_client
from worker.transport.kafka_python_transactions import RETRY_BACKOFF_MS, TRANSACTION_TIMEOUT_MS, TransactionalProducer


class ExactlyOnceTransport(KafkaPythonTransport):
    """Its transactional id is the group's and the instance's, or random where there is no instance id."""

    _producer: TransactionalProducer

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._transactional_id = f"{self._kafka.group_id}-{self._kafka.instance_id or uuid.uuid4().hex}"

    def _open_producer(self) -> TransactionalProducer:
        previous = getattr(self, "_producer", None)
        return self._insist(
            "no transaction coordinator answers", lambda: self._begin_session(previous and previous.identity)
        )

    def _begin_session(self, previous: object) -> TransactionalProducer:
        client = open_client(
            self._kafka,
            api_version=self._consumer.config["api_version"],
            transactional_id=self._transactional_id,
            transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
            retry_backoff_ms=RETRY_BACKOFF_MS,
        )
        producer = TransactionalProducer(client, self._listener.delivered)
        try:
            answer = producer.begin_session(previous)
            deadline = time.monotonic() + self._kafka.outage_deadline
            while not answer.wait(timeout_ms=100):
                if self._closing or time.monotonic() > deadline:
                    raise errors.KafkaTimeoutError("no answer")
        except errors.ProducerFencedError:
            producer.abandon()
            raise self._replaced() from None
        except errors.AuthorizationError as error:
            producer.abandon()
            raise TransportConfigurationError(f"not allowed to write transactions: {error}") from error
        except errors.KafkaError as error:
            producer.abandon()
            if isinstance(error, errors.RetriableError):
                raise
            raise TransportFault(f"no transaction can be begun: {error}") from error
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
            raise TransactionAborted(f"a record was refused: {producer.failed}")
        try:
            membership = result(self._consumer._manager.call_soon(self._membership, still_owned), timeout)
            producer.commit(committable(offsets), membership, deadline - time.monotonic())
        except (errors.KafkaError, TimeoutError, RuntimeError) as error:
            if producer.replaced(error):
                raise self._replaced() from None
            raise TransactionAborted(f"the transaction was not committed: {error}") from error

    def _replaced(self) -> TransportFault:
        return TransportFault(f"another worker with the transactional id {self._transactional_id} took over")

    def _membership(self, still_owned: Callable[[], bool]) -> ConsumerGroupMetadata:
        """Runs on the client's thread, where alone the assignment and the generation change. The broker would take
        offsets without a generation from anybody, and shut nobody out."""
        membership = self._consumer._coordinator.group_metadata()
        if membership.generation_id < 0 or not membership.member_id or not still_owned():
            raise errors.CommitFailedError("it holds results of partitions that have gone to another member")
        return membership

    def close(self, timeout: float) -> None:
        self._closing = True
        if hasattr(self, "_producer"):
            self._producer.abort(timeout / 2)
        super().close(timeout / 2)
