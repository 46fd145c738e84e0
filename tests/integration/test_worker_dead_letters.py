"""A dead-letter topic that cannot be reached holds the worker up and loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient, NewTopic

from tests.fakes.stream import Stream, committed, event, places, send, written
from tests.fakes.worker import wait_until
from worker.tools.local_kafka import LocalKafka
from worker.tools.process import WorkerProcess

RECORDS = 3000
BAD = [number for number in range(RECORDS) if number % 100 == 50]
WAYS = [(client, mode) for client in ("kafka-python", "librdkafka") for mode in ("at_least_once", "exactly_once")]


def make_topics(bootstrap: str, number: int) -> Stream:
    """A worker's settings; its dead letters have one replica, on the last of three nodes."""
    names = {name: f"{name}-{number}" for name in ("input_topic", "output_topic", "dead_letter_topic")}
    nodes = [[3] if name == "dead_letter_topic" else [1, 2, 3] for name in names]
    new = [NewTopic(topic, 4, replica_assignment=[at] * 4) for topic, at in zip(names.values(), nodes, strict=True)]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics(new).values():
        made.result(30)
    group = {"kafka.bootstrap_servers": bootstrap, "kafka.group_id": f"group-{number}"}
    return {**group, **{f"kafka.{name}": topic for name, topic in names.items()}}


def test_an_unreachable_dead_letter_topic_blocks_and_loses_nothing(
    local_kafka_factory: Callable[..., LocalKafka], checkpoint: Path, texts: list[str], tmp_path: Path
) -> None:
    kafka = local_kafka_factory(nodes=3)
    with ExitStack() as stack:
        workers: list[tuple[WorkerProcess, Stream]] = []
        for number, (client, delivery) in enumerate(WAYS):
            stream = make_topics(kafka.bootstrap_servers, number)
            flags: dict[str, Any] = {**stream, "kafka.client": client, "delivery": delivery, "in_flight.records": 400}
            flags["engine.device"] = "simulated"
            process = WorkerProcess(checkpoint, tmp_path / f"{number}.log", flags)
            workers.append((stack.enter_context(process), stream))
        for process, _ in workers:
            process.wait_ready()
        kafka.stop_node(2)
        for _, stream in workers:
            bad = (b"bad", b"not json", ())
            send(stream, (bad if number in BAD else event(number, texts[number]) for number in range(RECORDS)))
        for process, stream in workers:
            wait_until(lambda: process.metric("review_worker_blocked_seconds_total") > 2, process.log, 40)  # noqa: B023
            assert process.get("/livez")[0] == process.get("/readyz")[0] == 200, process.log
            consumed, rewinds = (process.metric(f"review_worker_{n}_total") for n in ("consumed_records", "rewinds"))
            assert consumed < RECORDS * (1 + rewinds)  # exactly once gives up an open transaction and reads again
            assert committed(stream).get(2, 0) <= BAD[0] // 4
        kafka.start_node(2)
        for process, stream in workers:
            wait_until(lambda: sum(committed(stream).values()) == RECORDS, process.log, 60)  # noqa: B023
            process.signal()
            assert process.wait() == 0, process.log
    for (_, delivery), (_, stream) in zip(WAYS, workers, strict=True):
        letters = places(written(stream, stream["kafka.dead_letter_topic"]))
        results = places(written(stream, stream["kafka.output_topic"]))
        assert set(letters) == {(number % 4, number // 4) for number in BAD}
        assert len(set(results)) == RECORDS - len(BAD)
        if delivery == "exactly_once":
            assert len(letters) + len(results) == RECORDS
