"""A worker's topics on real Kafka, as tests see them: what goes in, what has come out, what is committed."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from schemas import headers
from tests.fakes.worker import wait_until
from worker.configuration import load_settings
from worker.settings import KafkaSettings
from worker.tools.process import WorkerProcess
from worker.transport.admin import Admin, NewTopic
from worker.transport.interface import Record
from worker.transport.reader import read
from worker.transport.writer import TopicWriter

StartWorker = Callable[..., WorkerProcess]
Stream = dict[str, Any]
Sent = tuple[bytes | None, bytes | None, headers.Headers]


def connection(stream: Stream) -> KafkaSettings:
    return load_settings(None, [f"--{name}={value}" for name, value in stream.items()]).kafka


def send(stream: Stream, records: Iterable[Sent]) -> None:
    """Writes the records to the input topic, the n-th to partition n modulo their number."""
    kafka = connection(stream)
    topic = kafka.input_topics[0]
    with Admin(kafka) as admin, TopicWriter(kafka) as writer:
        partitions = len(admin.partitions(topic))
        for number, (key, value, own) in enumerate(records):
            writer.send(topic, key, value, own, partition=number % partitions)
        assert writer.flush(30)


def event(number: int, text: str) -> Sent:
    value = json.dumps({"review_id": f"r{number}", "text": text}, ensure_ascii=False).encode()
    return str(number).encode(), value, (("trace", str(number).encode()), ("trace", None))


def written(stream: Stream, topic: str) -> list[Record]:
    """All that a read-committed reader finds in the topic now, partition by partition."""
    kafka = connection(stream)
    with Admin(kafka) as admin:
        partitions = admin.partitions(topic)
        begin, end = admin.beginning(partitions), admin.end(partitions)
    return [record for batch in read(kafka, begin, end) for record in batch] if any(end.values()) else []


def committed(stream: Stream) -> dict[int, int]:
    with Admin(kafka := connection(stream)) as admin:
        return {partition: offset for (_, partition), offset in admin.committed(kafka.group_id).items()}


def run_until(
    worker: StartWorker, stream: Stream, count: int, check: Callable[[WorkerProcess], None] = lambda process: None
) -> tuple[list[Record], list[Record]]:
    """Lets a worker handle `count` records, checks it, drains it; its results and dead letters."""
    with worker(stream) as process:
        process.wait_ready()
        wait_until(lambda: sum(committed(stream).values()) >= count, f"{count} records: {process.log}", 60)
        check(process)
        process.signal()
        assert process.wait() == 0, process.log
        assert "canary" not in process.log
    return written(stream, stream["kafka.output_topic"]), written(stream, stream["kafka.dead_letter_topic"])


def make_topic(bootstrap: str, name: str, partitions: int = 4, config: Mapping[str, str] | None = None) -> str:
    """Makes a topic nobody else has, for as long as the broker runs; its name."""
    name = f"{name}-{uuid.uuid4().hex[:8]}"
    with Admin(KafkaSettings(bootstrap_servers=bootstrap)) as admin:
        admin.create_topics([NewTopic(name, partitions, 1, config or {})])
    return name


def places(results: Iterable[Record]) -> list[tuple[int, int]]:
    """(partition, offset) of the input record behind each result or dead letter."""
    return [headers.parse_source(headers.last(result.headers, headers.SOURCE) or b"")[1:] for result in results]


def unacknowledged(stream: Stream) -> set[tuple[int, int]]:
    """(partition, offset) of what is committed without result or dead letter, of one topic read from its beginning."""
    out = written(stream, stream["kafka.output_topic"]) + written(stream, stream["kafka.dead_letter_topic"])
    done = {(partition, offset) for partition, end in committed(stream).items() for offset in range(end)}
    return done.difference(places(out))
