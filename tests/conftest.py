"""What every test may ask for: a Kafka (see worker/tools/broker.py for which), killable ones, fresh topics."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest

from worker.tools.broker import Broker, choose_broker
from worker.tools.local_kafka import LocalKafka


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Iterator[Broker]:
    """The Kafka of this test run, started when the first test asks for it."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with ExitStack() as stack:
        with capture.global_and_fixture_disabled():  # so that what was chosen is seen
            chosen = stack.enter_context(choose_broker(os.environ, for_tests=True))
        yield chosen


@pytest.fixture(scope="session")
def bootstrap(broker: Broker) -> str:
    """Its address."""
    return broker.bootstrap_servers


@pytest.fixture
def local_kafka_factory() -> Iterator[Callable[..., LocalKafka]]:
    """Starts brokers that are the test's own to kill; takes LocalKafka's arguments."""
    with ExitStack() as stack:
        yield lambda *args, **options: stack.enter_context(LocalKafka(*args, **options))


@pytest.fixture
def topics(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Makes a topic nobody else has and returns its name: `topics("reviews", partitions=4, config={...})`.

    `bootstrap` names another broker than the test run's. Topics on a broker that was given to us are deleted again.
    """
    from kafka import KafkaAdminClient

    made: list[str] = []

    def admin(servers: str) -> Any:
        return KafkaAdminClient(bootstrap_servers=servers, bootstrap_timeout_ms=10_000, request_timeout_ms=10_000)

    def make(
        name: str = "topic", partitions: int = 1, config: Mapping[str, str] | None = None, bootstrap: str | None = None
    ) -> str:
        topic = f"{name}-{uuid.uuid4().hex[:8]}"
        servers = bootstrap or request.getfixturevalue("bootstrap")
        with admin(servers) as client:
            client.create_topics(
                {topic: {"num_partitions": partitions, "configs": dict(config or {})}}, timeout_ms=10_000
            )
            client.wait_for_topics([topic], timeout_ms=10_000)
        if bootstrap is None:
            made.append(topic)
        return topic

    yield make
    if made and request.getfixturevalue("broker").kind == "given":
        with admin(request.getfixturevalue("bootstrap")) as client:
            client.delete_topics(made)
