"""A worker without a process: the real pipeline over Kafka in memory, with the fake model."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from schemas.headers import SOURCE, last, parse_source
from schemas.labeled import ModelInfo
from schemas.recipe import TextRecipe
from tests.fakes.engine import FakeEngine, encode_batch
from worker.accounting import THREADS, Accounting
from worker.configuration import load_settings
from worker.dead_letters import DeadLetterWriter
from worker.decode import Decoder
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
