"""A producer over kafka-python 3.0.12 that reports every record's fate once, in order, and can be dropped at any time.

It puts records into the client's batches itself: `KafkaProducer.send` takes neither a header without a value nor a
record without key and value, and spends most of its time on checks and on a future for each record. Everything after
that, retries, idempotence and splitting of batches, is the client's. Knows nothing of consuming.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaProducer, TopicPartition, errors
from kafka.producer.future import FutureProduceResult
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder

from worker.settings import KafkaSettings
from worker.transport.interface import DeliveryFailed, Outgoing
from worker.transport.kafka_python_client import client_config, never_create_topics

Report = Callable[[Any, DeliveryFailed | None], None]
Failure = Callable[[int], BaseException]  # of each record of a batch, by its number

BATCH_BYTES = 128 * 1024
REQUEST_BYTES = 16 * 2**20  # bounds a request of several batches; a single larger record still goes, by itself
NOT_READY_BACKOFF = 0.1  # seconds
TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)


def open_client(kafka: KafkaSettings, **options: Any) -> KafkaProducer:
    """An idempotent producer's client; with `api_version` it is made without waiting for a broker."""
    client = KafkaProducer(
        **client_config(kafka),
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=0,
        batch_size=BATCH_BYTES,
        max_request_size=REQUEST_BYTES,
        delivery_timeout_ms=int(max(kafka.outage_deadline, 16.0) * 1000),
        max_block_ms=int(kafka.outage_deadline * 1000),
        metrics_enabled=False,
        **options,
    )
    network = client._sender._client
    never_create_topics(network)
    network.await_ready = functools.partial(_await_ready, network.await_ready)
    client._unregister_cleanup()  # it would wait at exit for what nobody waits for any more
    return client


def _await_ready(await_ready: Callable[..., bool], node: Any, timeout_ms: float) -> bool:
    """kafka-python 3.0.12 raises where its sender expects False. The sender then forgets the transaction's request that
    it had in hand, and what is sent waits for it until it expires; or it asks again at once, a thousand times a second.
    """
    try:
        return await_ready(node, timeout_ms=timeout_ms)
    except errors.KafkaConnectionError:
        time.sleep(NOT_READY_BACKOFF)
        return False


class Producer:
    """`report` is called with each token, from the client's thread, until `abandon`."""

    def __init__(self, client: KafkaProducer, report: Report) -> None:
        self.client = client
        self._report = report
        self._silent = False
        self.failed: BaseException | None = None  # the first refusal; whatever comes after it is refused as well
        self._reporting = threading.Lock()

    def send(self, record: Outgoing) -> None:
        """Called from one thread only. KafkaTimeoutError when the topic stays unknown for the outage deadline."""
        if self.failed is not None:
            self.settled([record.token], None)
            return
        client, accumulator = self.client, self.client._accumulator
        partition = TopicPartition(record.topic, record.partition)
        if record.topic not in client._metadata._partitions:
            client._wait_on_metadata(record.topic, client.config["max_block_ms"])
        with accumulator._tp_lock(partition):
            batches = accumulator._batches[partition]
            last = batches[-1] if batches else None
            opened = not (isinstance(last, _Batch) and last.take(record))  # those of a split are the client's own, full
            if opened:
                batch = _Batch(partition, self)
                batch.take(record)
                batches.append(batch)
                accumulator._incomplete.add(batch)
        if opened:
            client._sender.wakeup()

    def flush(self, timeout: float) -> bool:
        """True once everything sent is reported; False after `timeout` seconds or when abandoned."""
        deadline = time.monotonic() + timeout
        while batches := self.client._accumulator._incomplete.all():
            if time.monotonic() > deadline:
                return False
            if batches[0].produce_future.wait(0.05):  # in slices: a batch that is split never says that it is done
                time.sleep(0.0005)  # it is about to leave the set
        return not self._silent

    def abandon(self) -> None:
        """Ends it without waiting; nothing is reported once this has returned."""
        with self._reporting:
            self._silent = True
        self.client._closed = True  # or its destructor would wait a second, and take away its module's logger
        self.client._sender.force_close()

    def settled(self, tokens: list[Any], failure: Failure | None) -> None:
        """The fate of a batch, or of one record of a batch that was split, is known."""
        with self._reporting:
            if self._silent:
                return
            for number, token in enumerate(tokens):
                self._report(token, self._fate(failure(number) if failure else None))

    def _fate(self, error: BaseException | None) -> DeliveryFailed | None:
        """After the first refusal everything is refused: a gap in a partition's order could never be closed."""
        if self.failed is not None:
            return DeliveryFailed(f"an earlier record was refused: {self.failed}")
        if error is None:
            return None
        self.failed = error
        return DeliveryFailed(str(error), too_large=isinstance(error, TOO_LARGE))


class _Batch(ProducerBatch):  # type: ignore[misc]
    """A batch that keeps the tokens of its records where the client's keeps a future for each."""

    def __init__(self, partition: TopicPartition, producer: Producer) -> None:
        config = producer.client.config
        self._producer = producer
        self._tokens: list[Any] = []
        self._parts: list[_Part] = []
        super().__init__(partition, MemoryRecordsBuilder(2, config["compression_attrs"], config["batch_size"]))

    def take(self, record: Outgoing) -> bool:
        """Adds the record; False when there is no room."""
        if self.records.append(None, record.key, record.value, record.headers) is None:
            return False
        self._tokens.append(record.token)
        return True

    def _complete_future(self, base_offset: int, timestamp: int, failure: Failure | None) -> None:
        self._producer.settled(self._tokens, failure)
        super()._complete_future(base_offset, timestamp, failure)

    @property
    def _record_futures(self) -> list[_Part]:
        """What the client asks for when it splits a batch that is too large for the broker."""
        self._parts = self._parts or [_Part(self._producer, token) for token in self._tokens]
        return self._parts

    @_record_futures.setter
    def _record_futures(self, empty: list[_Part]) -> None:
        """The constructor of the client's class sets it."""


class _Part:
    """A record that the client moves to another batch."""

    def __init__(self, producer: Producer, token: Any) -> None:
        self._producer, self._token = producer, token

    def rebind(self, future: FutureProduceResult, number: int) -> None:
        future.add_callback(self._settled, number)

    def _settled(self, number: int, outcome: tuple[int, int, Failure | None]) -> None:
        failure = outcome[2]
        self._producer.settled([self._token], (lambda _: failure(number)) if failure else None)
