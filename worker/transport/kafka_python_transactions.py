"""A transactional producer over kafka-python 3.0.12: one transaction after another, and never a step without an end.

Made anew after every abort, because the client gives the offsets of an aborted transaction to the next one; it then
resumes under the same producer id, so that a worker that was replaced is told so and does not replace the other again.
Knows nothing of groups: it is handed their metadata.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer, TopicPartition, errors
from kafka.producer.transaction_manager import (
    InitProducerIdHandler,
    ProducerIdAndEpoch,
    TransactionalRequestResult,
    TransactionState,
)
from kafka.structs import ConsumerGroupMetadata, OffsetAndMetadata

from worker.transport.interface import Outgoing
from worker.transport.kafka_python_producer import Producer, Report

TRANSACTION_TIMEOUT_MS = 15_000
RETRY_BACKOFF_MS = 20  # a transaction begun right after another is often told to come back

FENCED = (errors.ProducerFencedError, errors.InvalidProducerEpochError)


class TransactionalProducer(Producer):
    """`open` says whether there is a transaction; `send` begins one. To be used by one thread at a time."""

    def __init__(self, client: KafkaProducer, report: Report) -> None:
        super().__init__(client, report)
        self._manager = client._transaction_manager
        self._manager.bump_producer_id_and_epoch = self._outdated
        self._partitions: set[TopicPartition] = set()
        self._begun_at = 0.0
        self.open = False

    @property
    def identity(self) -> ProducerIdAndEpoch:
        return self._manager.producer_id_and_epoch

    def _outdated(self) -> None:
        """Instead of the client's way on, which can shut out a worker that has replaced this one."""
        self._manager.transition_to_fatal_error(errors.InvalidProducerEpochError())

    def replaced(self, error: BaseException | None) -> bool:
        """Whether `error` means that another producer took over the transactional id: a broker that has given up a
        transaction as too old says the same, but not before it is."""
        young = time.monotonic() - self._begun_at < TRANSACTION_TIMEOUT_MS / 1000
        return isinstance(error, FENCED) and young

    def begin_session(self, previous: ProducerIdAndEpoch | None) -> TransactionalRequestResult:
        """Ends what an earlier producer with this transactional id left open. Without `previous`, any other producer
        with the id is shut out; as the successor of `previous`, it is this one that fails if there is another."""
        if previous is None or not previous.is_valid:
            answer = self._manager.initialize_transactions()
        else:
            self._manager._transition_to(TransactionState.INITIALIZING)
            self._manager.set_producer_id_and_epoch(previous)
            handler = _Resume(self._manager, self._manager.transaction_timeout_ms, is_epoch_bump=True)
            self._manager._enqueue_request(handler)
            answer = handler.result
        self.client._sender.wakeup()
        return answer

    def send(self, record: Outgoing) -> None:
        partition = TopicPartition(record.topic, record.partition)
        try:
            if self.failed is None:
                self._begin()
            if self.failed is None and partition not in self._partitions:
                self._manager.maybe_add_partition_to_transaction(partition)
                self._partitions.add(partition)
        except errors.KafkaError as error:  # the transaction has failed already
            reason = error
            self.settled([record.token], lambda number: reason)
        else:
            super().send(record)

    def _begin(self) -> None:
        if not self.open:
            self._manager.begin_transaction()
            self._begun_at, self.open = time.monotonic(), True

    def commit(
        self, offsets: dict[TopicPartition, OffsetAndMetadata], group: ConsumerGroupMetadata, timeout: float
    ) -> None:
        """Commits what was sent together with the offsets. Everything sent must have been flushed.

        KafkaError when it did not come to that, or when no answer came in time; then nothing more can be done here.
        """
        deadline = time.monotonic() + timeout
        self._begin()
        if offsets:
            self._wait(self._manager.send_offsets_to_transaction(offsets, group), deadline)
        self._wait(self._manager.begin_commit(), deadline)
        self.open = False
        self._partitions.clear()

    def abort(self, timeout: float) -> None:
        """Ends an open transaction, if it can be done in time: readers of committed data wait for it otherwise."""
        if self.open:
            with suppress(errors.KafkaError):  # the broker does it by itself after the transaction timeout
                self._wait(self._manager.begin_abort(), time.monotonic() + timeout)

    def _wait(self, answer: TransactionalRequestResult, deadline: float) -> None:
        self.client._sender.wakeup()
        if not answer.wait(timeout_ms=max(0.0, deadline - time.monotonic()) * 1000):
            raise errors.KafkaTimeoutError("Kafka did not answer in time")


class _Resume(InitProducerIdHandler):  # type: ignore[misc]
    """Goes on under a known producer id. The client's own handler would shut the other producer out in turn."""

    def handle_response(self, response: Any) -> None:
        if errors.for_code(response.error_code) in FENCED:
            self.fatal_error(errors.ProducerFencedError())
        else:
            super().handle_response(response)
