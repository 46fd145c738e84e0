"""Sends the reviews and remembers which partition and offset the broker acknowledged for each. Knows no worker."""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka import TopicPartition as At

from tests.chaos.reviews import number_of, review

NOWHERE = -1


class Acknowledged:
    """Where each record is in the input topic."""

    def __init__(self, records: int) -> None:
        self.partitions = array("h", [NOWHERE]) * records
        self.offsets = array("q", [NOWHERE]) * records

    def fill(self, bootstrap: str, topic: str) -> None:
        """From the topic itself: after a restart of this program, or where an acknowledgement named no offset."""
        consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "none", "enable.auto.commit": False, "log_level": 2}
        )
        try:
            partitions = consumer.list_topics(topic, 30).topics[topic].partitions
            ends = {number: consumer.get_watermark_offsets(At(topic, number), 30)[1] for number in partitions}
            left = {number for number, end in ends.items() if end}
            consumer.assign([At(topic, number, 0) for number in left])
            while left:
                for message in consumer.consume(10_000, 10):
                    if message.error():
                        raise KafkaException(message.error())
                    self.add(number_of(message.key()), message.partition(), message.offset())
                    if message.offset() + 1 >= ends[message.partition()]:
                        left.discard(message.partition())
        finally:
            consumer.close()

    def add(self, number: int, partition: int, offset: int) -> None:
        self.partitions[number], self.offsets[number] = partition, offset

    def missing(self) -> list[int]:
        return [number for number, offset in enumerate(self.offsets) if offset < 0]


class Generator:
    """A thread that sends these numbers, up to the number that `limit` allows now. To be closed."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        partitions: int,
        texts: Sequence[str],
        acknowledged: Acknowledged,
        numbers: Collection[int],
        limit: Callable[[], int],
    ) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 5,
                "delivery.timeout.ms": 300_000,
                "topic.metadata.refresh.interval.ms": 500,
                "reconnect.backoff.max.ms": 500,
                "log_level": 2,
            }
        )
        self._topic, self._partitions, self._texts = topic, partitions, texts
        self._acknowledged, self._limit = acknowledged, limit
        self._todo = deque(numbers)
        self._unsettled = 0
        self._stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name="generator", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether everything is sent and acknowledged."""
        return not self._thread.is_alive() and self.error is None

    def grow(self, partitions: int) -> None:
        """The topic has more partitions: write to them too, once the client knows them."""
        self._partitions = partitions

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:
            self.error = error

    def _run(self) -> None:
        known = self._partitions
        while (self._todo or self._unsettled) and not self._stop.is_set():
            if known != self._partitions:
                found = self._producer.list_topics(self._topic, 30).topics[self._topic].partitions
                known = self._partitions if len(found) == self._partitions else known
            limit = self._limit()
            for _ in range(100):
                if self._todo and self._todo[0] < limit:
                    self._send(self._todo.popleft(), known)
            self._producer.poll(0.01)

    def _send(self, number: int, partitions: int) -> None:
        record = review(number, self._texts)
        self._producer.produce(
            self._topic,
            record.value,
            record.key,
            number % partitions,
            headers=list(record.headers),
            on_delivery=lambda error, message: self._settled(number, error, message),
        )
        self._unsettled += 1

    def _settled(self, number: int, error: Any, message: Any) -> None:
        self._unsettled -= 1
        if error is not None:
            self._todo.appendleft(number)
        else:
            offset = message.offset()  # None where it was a repetition that the broker had already taken
            self._acknowledged.add(number, message.partition(), NOWHERE if offset is None else offset)
