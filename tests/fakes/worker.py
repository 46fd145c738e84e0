"""A worker without a process: the real pipeline over Kafka in memory, with the fake model."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from schemas.dead_letter import unwrap
from schemas.headers import SOURCE, last, parse_source
from schemas.labeled import ModelInfo
from schemas.recipe import TextRecipe
from tests.fakes.engine import FakeEngine, encode_batch
from worker.accounting import THREADS, Accounting
from worker.configuration import load_settings
from worker.dead_letters import DeadLetterWriter
from worker.decode import Decoder
from worker.engine.simulated import probability
from worker.health import Health
from worker.infer import InferStage
from worker.metrics import Metrics
from worker.pipeline import Pipeline
from worker.publish import ResultWriter
from worker.tokenize import TokenizeStage
from worker.transport.interface import Record, TopicPartition
from worker.transport.memory import MemoryTransport
from worker.transport.memory_broker import MemoryBroker

MODEL = ModelInfo(name="fake", version="v0001", digest="0" * 64)
INPUT, OUTPUT, DEAD_LETTERS = "reviews", "reviews.labelled", "reviews.dead-letters"
DEADLINE = 10.0


def make_broker(partitions: int = 4) -> MemoryBroker:
    broker = MemoryBroker()
    for topic in (INPUT, OUTPUT, DEAD_LETTERS):
        broker.create_topic(topic, partitions)
    return broker


class FakeWorker:
    """Started when made; use as a context manager, so that its threads end."""

    def __init__(self, broker: MemoryBroker, engines: list[FakeEngine] | None = None, **settings: Any) -> None:
        self.broker = broker
        self.settings = load_settings(None, [], **settings)
        self.transport = MemoryTransport(broker, self.settings)
        self.transport.connect(1)
        self.metrics = Metrics()
        self.health = Health(limits=dict.fromkeys((*THREADS, "observe", "broker"), DEADLINE))
        self.health.warm = True
        self.engines = engines or [FakeEngine()]
        kafka = self.settings.kafka
        self.pipeline = Pipeline(
            self.settings,
            self.transport,
            Decoder(self.settings.input, TextRecipe()),
            TokenizeStage(encode_batch, TextRecipe()),
            [InferStage(engine, MODEL, self.metrics) for engine in self.engines],
            ResultWriter(kafka.output_topic, broker.topics[kafka.output_topic], "fake", include_review=True),
            DeadLetterWriter(kafka.dead_letter_topic, broker.topics[kafka.dead_letter_topic], "fake"),
            Accounting(self.metrics),
            self.health,
            sum(engine.tokens_per_second for engine in self.engines),
        )

    def __enter__(self) -> FakeWorker:
        self.pipeline.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.pipeline.fail(RuntimeError("the test is over"))
        self.transport.close(1.0)
        self.pipeline.join(DEADLINE)

    def drain(self) -> None:
        self.pipeline.drain()
        assert self.pipeline.wait(DEADLINE), "did not drain"
        self.transport.close(1.0)
        self.pipeline.join(DEADLINE)

    @property
    def committed(self) -> dict[TopicPartition, int]:
        return self.broker.group(self.settings.kafka.group_id).committed


def wait_until(condition: Callable[[], Any], what: str = "it", deadline: float = DEADLINE) -> None:
    """Polls for the real condition, with a deadline."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {deadline} s"
        time.sleep(0.005)


def visible(broker: MemoryBroker, topic: str) -> list[Record]:
    """What a read-committed reader sees of a topic, partition by partition."""
    partitions = broker.topics[topic].partitions
    logs = [broker.logs[TopicPartition(topic, number)] for number in range(partitions)]
    return [record for log in logs for _, record in log.readable(0) if record is not None]


def sources(records: list[Record]) -> list[tuple[int, int]]:
    """(partition, offset) of the input record behind each."""
    return [parse_source(last(record.headers, SOURCE) or b"")[1:] for record in records]


def feed(broker: MemoryBroker, count: int, bad: Callable[[int], bool] = lambda number: False) -> None:
    for number in range(count):
        value = json.dumps({"review_id": number, "text": f"review number {number} " * (1 + number % 7)}).encode()
        key = str(number).encode()
        broker.append(INPUT, number % 4, key, b"not json" if bad(number) else value, (("trace", key),))


def outcomes(broker: MemoryBroker) -> int:
    return len(visible(broker, OUTPUT)) + len(visible(broker, DEAD_LETTERS))


def dead_sources(broker: MemoryBroker) -> list[tuple[int, int]]:
    coordinates = [unwrap(record.headers)[1].source.rsplit("-", 2) for record in visible(broker, DEAD_LETTERS)]
    return [(int(partition), int(offset)) for _, partition, offset in coordinates]


def assert_all_once(broker: MemoryBroker, count: int) -> None:
    found = sources(visible(broker, OUTPUT)) + dead_sources(broker)
    assert len(found) == len(set(found)) == count


def assert_in_order(broker: MemoryBroker) -> None:
    for partition in range(4):
        offsets = [offset for number, offset in sources(visible(broker, OUTPUT)) if number == partition]
        assert offsets == sorted(offsets)


def assert_right_labels(broker: MemoryBroker) -> None:
    for record in visible(broker, OUTPUT):
        result = json.loads(record.value or b"")
        assert record.key == result["review_id"].encode() == str(result["review"]["review_id"]).encode()
        expected = probability(encode_batch([result["review"]["text"]])[0].ids)
        assert result["scores"]["positive"] == pytest.approx(expected, abs=1e-6)
        assert result["label"] == ("positive" if expected > 0.5 else "negative")
        assert record.headers[0] == ("trace", record.key)
