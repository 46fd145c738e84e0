"""Keeps account: every record that went in against everything that came out. Knows no worker and starts no process.

What belongs together is found by `review_id` (dead letters: by key), never by the worker's own headers, which are
themselves checked against the offsets that the broker acknowledged to the generator.
"""

from __future__ import annotations

import json
import threading
from array import array
from collections.abc import Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException
from confluent_kafka import TopicPartition as At

from schemas import headers
from schemas.dead_letter import unwrap
from tests.chaos.generator import NOWHERE, Acknowledged
from tests.chaos.reviews import Expected, number_of, review
from tests.chaos.world import OUTPUT_PARTITIONS

SHOWN = 10


class Ledger:
    """Pure: is told of records, in order within a partition, and counts."""

    def __init__(
        self,
        topic: str,
        texts: Sequence[str],
        expected: Sequence[Expected],
        acknowledged: Acknowledged,
        *,
        exactly_once: bool,
        output_partitions: int = OUTPUT_PARTITIONS,
    ) -> None:
        records = len(acknowledged.offsets)
        self._topic, self._texts, self._expected, self._acknowledged = topic, texts, expected, acknowledged
        self._exactly_once = exactly_once
        # As the workers found them when they began; those of the input do not matter to the rule, nor that they grow.
        self._targets = {"result": output_partitions, "letter": OUTPUT_PARTITIONS}
        self._seen = array("L", [0]) * records
        self._partitions = array("h", [NOWHERE]) * records  # where the worker says that it found it
        self._offsets = array("q", [NOWHERE]) * records
        self._last: dict[tuple[Any, ...], int] = {}
        self.outcomes = 0
        self.duplicates = 0
        self.out_of_order = 0
        self.wrong_records = 0
        self.examples: list[str] = []

    @property
    def lost(self) -> list[int]:
        """Numbers of the records that have no outcome."""
        return [number for number, seen in enumerate(self._seen) if not seen]

    def result(self, partition: int, key: bytes | None, value: bytes | None, own: headers.Headers) -> None:
        """A record of the output topic."""
        try:
            found = json.loads(value or b"")
            number = number_of(found["review_id"])
            sent, expected = review(number, self._texts), self._expected[number % len(self._texts)]
            ours = dict(own[len(sent.headers) :])
            source, name = found["source"], ours[headers.SOURCE] or b""
            positive = found["scores"]["positive"]
            self._check(number, "is no dead letter", sent.reason is None)
            self._check(number, "key", key == sent.key)
            self._check(number, "own headers", own[: len(sent.headers)] == sent.headers)
            self._check(number, "our headers", list(ours) == [headers.MODEL, headers.SOURCE, headers.OWNER])
            self._check(number, "review", (value or b"").endswith(b',"review":' + (sent.value or b"") + b"}"))
            self._check(number, "score", abs(positive - expected.positive) < 1e-6)
            self._check(number, "label", found["label"] == ("positive" if positive > 0.5 else "negative"))
            self._check(number, "sum of the scores", abs(sum(found["scores"].values()) - 1) < 1e-6)
            self._check(number, "tokens", found["token_count"] == expected.tokens)
            self._check(number, "truncated", found["truncated"] == expected.truncated)
            self._check(number, "model", ours[headers.MODEL] == b"random@v0001" and found["model"]["name"] == "random")
            where = (source["topic"], source["partition"], source["offset"])
            self._check(number, "source in value and header", headers.parse_source(name) == where)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            self._wrong(f"a result that cannot be read ({type(error).__name__}: {error})")
            return
        self._outcome(number, where, "result", partition, ours[headers.OWNER])

    def letter(self, partition: int, key: bytes | None, value: bytes | None, own: headers.Headers) -> None:
        """A record of the dead-letter topic."""
        try:
            number = number_of(key or b"")
            sent = review(number, self._texts)
            headers_then, info = unwrap(own)
            where = headers.parse_source(info.source.encode())
        except (ValueError, IndexError) as error:
            self._wrong(f"a dead letter that cannot be read ({type(error).__name__}: {error})")
            return
        self._check(number, "reason", info.reason == sent.reason)
        self._check(number, "value", value == sent.value)
        self._check(number, "own headers", headers_then == sent.headers)
        self._outcome(number, where, "letter", partition, info.worker)

    def settle(self) -> None:
        """Once all is read: do the sources that the worker named agree with what the broker told the generator?"""
        acknowledged = self._acknowledged
        for number, seen in enumerate(self._seen):
            here = (self._partitions[number], self._offsets[number])
            there = (acknowledged.partitions[number], acknowledged.offsets[number])
            if seen:
                self._check(number, f"source {here} where the broker said {there}", here == there)

    def _outcome(self, number: int, where: tuple[str, int, int], kind: str, target: int, owner: Any) -> None:
        topic, partition, offset = where
        self._check(number, "topic", topic == self._topic)
        self._check(number, f"{kind} of {partition} in {target}", target == partition % self._targets[kind])
        if self._seen[number]:
            self.duplicates += 1
            self._check(number, "same source", (self._partitions[number], self._offsets[number]) == (partition, offset))
        else:
            self._partitions[number], self._offsets[number] = partition, offset
            self.outcomes += 1
        self._seen[number] += 1
        if self._exactly_once or kind == "result":  # dead letters do not name their epoch
            rank = (kind, partition) if self._exactly_once else (kind, partition, owner)
            if offset <= (before := self._last.get(rank, NOWHERE)):
                self.out_of_order += 1
                self._show(f"{kind} of {partition}-{offset} by {owner} came after that of {before}")
            self._last[rank] = offset

    def _check(self, number: int, what: str, right: bool) -> None:
        if not right:
            self._wrong(f"r{number}: {what}")

    def _wrong(self, what: str) -> None:
        self.wrong_records += 1
        self._show(what)

    def _show(self, what: str) -> None:
        if len(self.examples) < SHOWN:
            self.examples.append(what)


class Reader:
    """A thread that tells the ledger what a read-committed reader of both topics sees. To be closed."""

    def __init__(self, bootstrap: str, output: str, dead_letters: str, ledger: Ledger) -> None:
        self._take = {output: ledger.result, dead_letters: ledger.letter}
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "ledger",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "reconnect.backoff.max.ms": 500,
                "log_level": 2,
            }
        )
        topics = self._consumer.list_topics(timeout=30).topics
        self._all = {(topic, number) for topic in self._take for number in topics[topic].partitions}
        self._consumer.assign([At(topic, number, OFFSET_BEGINNING) for topic, number in self._all])
        self._ended: set[tuple[str, int]] = set()
        self._stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name="ledger", daemon=True)
        self._thread.start()

    @property
    def at_end(self) -> bool:
        """Whether it has read all that there is to read now."""
        return self._ended == self._all

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)
        self._consumer.close()

    def _guarded(self) -> None:
        try:
            while not self._stop.is_set():
                for message in self._consumer.consume(1000, 0.1):
                    self._message(message)
        except BaseException as error:
            self.error = error

    def _message(self, message: Any) -> None:
        place = (message.topic(), message.partition())
        if (error := message.error()) is None:
            self._ended.discard(place)
            own = tuple(message.headers() or ())
            self._take[message.topic()](message.partition(), message.key(), message.value(), own)
        elif error.code() == KafkaError._PARTITION_EOF:
            self._ended.add(place)
        elif error.fatal() or not (error.retriable() or error.code() in PASSING):
            raise KafkaException(error)


PASSING = (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT)
