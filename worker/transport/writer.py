"""Writes records with a bounded buffer and reports each one's fate: for tools and tests. Over kafka-python."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Self

from kafka import errors
from kafka.partitioner.default import murmur2

from schemas.headers import Headers
from worker.settings import KafkaSettings
from worker.transport.interface import DeliveryFailed, Outgoing, TransportUnavailable
from worker.transport.kafka_python_client import reaching
from worker.transport.kafka_python_producer import Producer, open_client

BUFFER_BYTES = 32 * 2**20


class TopicWriter:
    """Idempotent. `on_delivery` is called with each token, in order within a partition, from the client's thread.

    After a refusal everything later is refused too; make a new writer then. To be closed; a context manager.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        on_delivery: Callable[[Any, DeliveryFailed | None], None] = lambda token, error: None,
        timeout: float = 15.0,
    ) -> None:
        """TransportUnavailable when no broker answers within `timeout` seconds."""
        self._kafka, self._on_delivery = kafka, on_delivery
        self._changed = threading.Condition()
        self._buffered = 0  # bytes not yet acknowledged
        self._turn = 0
        with reaching(kafka, timeout):
            self._producer = Producer(open_client(kafka, bootstrap_timeout_ms=int(timeout * 1000)), self._delivered)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: Headers = (),
        *,
        partition: int | None = None,
        token: Any = None,
    ) -> None:
        """Hands over a record; blocks while the buffer is full. Without a partition, the key decides as it does for
        Java's clients (murmur2), and records without a key take turns. TransportUnavailable when the topic stays
        unknown, or the buffer full, for the outage deadline."""
        size = 100 + len(key or b"") + len(value or b"")
        try:
            if partition is None:
                partition = self._choose(topic, key)
            with self._changed:
                if not self._changed.wait_for(lambda: self._buffered < BUFFER_BYTES, self._kafka.outage_deadline):
                    raise TransportUnavailable("Kafka has accepted nothing for the outage deadline")
                self._buffered += size
            self._producer.send(Outgoing(topic, partition, key, value, headers, (token, size)))
        except errors.KafkaTimeoutError as error:
            raise TransportUnavailable(f"the topic {topic} is unknown to Kafka: {error}") from error

    def _choose(self, topic: str, key: bytes | None) -> int:
        client = self._producer.client
        count = len(client._metadata._partitions.get(topic) or client.partitions_for(topic))
        if key is not None:
            return int(murmur2(key) & 0x7FFFFFFF) % count
        self._turn += 1
        return self._turn % count

    def _delivered(self, token: tuple[Any, int], error: DeliveryFailed | None) -> None:
        with self._changed:
            self._buffered -= token[1]
            self._changed.notify()
        self._on_delivery(token[0], error)

    def flush(self, timeout: float) -> bool:
        """True once the fate of everything sent is reported; False after `timeout` seconds."""
        return self._producer.flush(timeout)

    def close(self) -> None:
        """Ends it at once: flush first."""
        self._producer.abandon()
