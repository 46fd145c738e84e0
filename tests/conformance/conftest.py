"""One suite, every transport: each test runs in memory and, for each client, on Apache Kafka."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from tests.conformance.worlds import KafkaWorld, MemoryWorld, World
from tests.fakes.compaction import COMPACTED
from worker.settings import KafkaSettings
from worker.transport.admin import Admin, NewTopic
from worker.transport.writer import TopicWriter

CLIENTS = ["kafka-python", "librdkafka", "librdkafka, consumer"]  # the latter with KIP-848


@pytest.fixture(params=["memory", *CLIENTS])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "memory":
        world: World = MemoryWorld()
    else:
        world = KafkaWorld(request.param, request.getfixturevalue("bootstrap"), request.getfixturevalue("topics"))
        world.compacted = request.getfixturevalue("compacted_topic")
    yield world
    world.close()


@pytest.fixture(params=CLIENTS)
def kafka(request: pytest.FixtureRequest, bootstrap: str, topics: Callable[..., str]) -> Iterator[KafkaWorld]:
    """For what only a real cluster has."""
    world = KafkaWorld(request.param, bootstrap, topics)
    yield world
    world.close()


@pytest.fixture(scope="session")
def compacted_topic(bootstrap: str) -> Callable[[], tuple[str, int]]:
    """Name and end of a topic with holes at 0 to 3. Made with the first test: the cleaner comes every 15 s."""
    settings = KafkaSettings(bootstrap_servers=bootstrap)
    name = f"compacted-{uuid.uuid4().hex[:8]}"
    with Admin(settings) as admin, TopicWriter(settings) as writer:
        admin.create_topics([NewTopic(name, 1, 1, COMPACTED)])
        for number in range(5):
            writer.send(name, b"a", b"%d" % number, partition=0)
        assert writer.flush(10)
        time.sleep(0.2)  # the segment's age: only closed segments are cleaned, and the next record closes it
        writer.send(name, b"b", b"x", partition=0)
        assert writer.flush(10)
    return lambda: (name, 6)
