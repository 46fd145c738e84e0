"""Whatever a partition ends with, it leaves no lag: a bad record, an aborted transaction, holes of compaction."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from kafka import KafkaProducer

from tests.fakes.compaction import COMPACTED
from tests.fakes.stream import StartWorker, Stream, connection, event, make_topic, places, send, written
from tests.fakes.worker import wait_until
from worker.transport.admin import Admin
from worker.transport.writer import TopicWriter

BAD = (b"bad", b"not json", ())


def abort(bootstrap: str, topic: str, partition: int, *values: bytes) -> None:
    """Writes them in a transaction that is aborted."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id=uuid.uuid4().hex)
    try:
        producer.init_transactions()
        producer.begin_transaction()
        for value in values:
            producer.send(topic, value, b"aborted", partition=partition)
        producer.flush(30)
        producer.abort_transaction()
    finally:
        producer.close(timeout=1)


@pytest.fixture(scope="module", autouse=True)
def compacted(bootstrap: str) -> Callable[[], str]:
    """A topic with one record, at 0, that ends with holes and aborted transactions. Written with the first test: the
    cleaner takes its time, and drops a deletion only the second time that it comes by."""
    topic = make_topic(bootstrap, "compacted", 1, COMPACTED)
    stream = {"kafka.bootstrap_servers": bootstrap, "kafka.input_topic": topic}
    with TopicWriter(connection(stream)) as writer:
        for number in range(5):
            writer.send(topic, b"deleted" if number else b"kept", event(number, "fine")[1], partition=0)
        writer.send(topic, b"deleted", None, partition=0)
        assert writer.flush(30)
    time.sleep(0.2)  # the segment's age: only closed segments are cleaned, and the next record closes it
    abort(bootstrap, topic, 0, b"aborted")

    @cache
    def cleaned() -> str:
        wait_until(lambda: len(written(stream, topic)) == 2, "the compaction", 60)
        abort(bootstrap, topic, 0, b"aborted")
        wait_until(lambda: len(written(stream, topic)) == 1, "the second compaction", 60)
        return topic

    return cleaned


@pytest.mark.parametrize("client, delivery", [("kafka-python", "at_least_once"), ("librdkafka", "exactly_once")])
def test_every_kind_of_end_is_committed(
    client: str, delivery: str, worker: StartWorker, stream: Stream, compacted: Callable[[], str]
) -> None:
    bootstrap, topic = stream["kafka.bootstrap_servers"], stream["kafka.input_topic"]
    records = [event(number, "fine") for number in range(8)]
    send(stream, [*records, BAD])  # at the end of partition 0
    abort(bootstrap, topic, 1, b"never", b"seen")
    abort(bootstrap, topic, 3, *(event(number, "fine")[1] or b"" for number in range(3)))
    topics = [topic, compacted()]
    settings = {**stream, "kafka.input_topic": json.dumps(topics), "kafka.client": client, "delivery": delivery}
    with Admin(connection(stream)) as admin:
        ends = admin.end([tp for name in topics for tp in admin.partitions(name)])
        assert sorted(ends.values()) == [2, 3, 5, 6, 10]
        with worker({**settings, "engine.device": "simulated", "breaker.ratio": 1.0}) as process:
            group = stream["kafka.group_id"]
            wait_until(lambda: admin.committed(group) == ends, f"the ends: {admin.committed(group)} {process.log}", 40)
            wait_until(lambda: lag(process.get("/metrics")[1]) == [0.0] * 5, "lag 0", 15)
    assert len(written(stream, stream["kafka.output_topic"])) == 9
    assert places(written(stream, stream["kafka.dead_letter_topic"])) == [(0, 2)]


def lag(metrics: str) -> list[Any]:
    series = [line for line in metrics.splitlines() if line.startswith("review_worker_lag_records{")]
    return [float(line.rsplit(" ", 1)[1]) for line in series]
