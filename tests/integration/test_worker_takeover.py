"""A worker that is killed with work in flight, and the one that takes over, by the newer group protocol (KIP-848)."""

from __future__ import annotations

import signal
from itertools import cycle

from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaPartition

from tests.fakes.stream import StartWorker, Stream, committed, connection, event, places, send, written
from tests.fakes.worker import wait_until
from worker.transport.admin import Admin

COMMITTED, RECORDS = 400, 4000


def held_back(stream: Stream) -> int:
    """How many results an open transaction keeps from readers."""
    with Admin(kafka := connection(stream)) as admin:
        readable = admin.end(admin.partitions(kafka.output_topic))
    consumer = KafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)  # by default it reads the uncommitted too
    try:
        return sum(consumer.end_offsets([KafkaPartition(*tp) for tp in readable]).values()) - sum(readable.values())
    finally:
        consumer.close()


def test_a_successor_by_the_newer_protocol_loses_and_repeats_nothing(
    worker: StartWorker, stream: Stream, texts: list[str]
) -> None:
    settings = {
        **stream,
        "delivery": "exactly_once",
        "kafka.client": "librdkafka",
        "kafka.group_protocol": "consumer",
        "kafka.instance_id": "worker-1",  # so that the successor aborts at once what the dead one left open
    }
    slow = {"engine.device": "simulated:40000", "engine.token_budget": 2000}
    slow["commit_interval"] = 60.0  # meanwhile it commits only where nothing else is coming
    reviews = list(map(event, range(RECORDS), cycle(texts)))
    with worker({**settings, **slow}) as first:
        send(stream, reviews[:COMMITTED])
        wait_until(lambda: sum(committed(stream).values()) == COMMITTED, f"commits: {first.log}", 40)
        send(stream, reviews[COMMITTED:])
        wait_until(lambda: held_back(stream) > 100, f"an open transaction: {first.log}", 20)
        first.signal(signal.SIGKILL)
        first.wait()
    assert held_back(stream) > 100
    with Admin(kafka := connection(stream)) as admin:
        wait_until(lambda: not admin.active(kafka.group_id), "the end of its session", 60)
    with worker({**settings, "engine.device": "simulated"}) as second:
        wait_until(lambda: sum(committed(stream).values()) == RECORDS, f"the rest: {second.log}", 60)
        second.signal()
        assert second.wait() == 0, second.log
    found = places(written(stream, stream["kafka.output_topic"]))
    assert sorted(found) == [(number, offset) for number in range(4) for offset in range(RECORDS // 4)]
