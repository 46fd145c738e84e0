"""Brokers that die, come back, or would make topics by themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from kafka import KafkaAdminClient

from tests.conformance.conftest import CLIENTS
from tests.conformance.worlds import KafkaWorld, outgoing, until
from worker.tools.local_kafka import LocalKafka
from worker.transport.interface import TopicPartition, TransportFault


@pytest.mark.parametrize("client", CLIENTS)
def test_a_broker_dies_and_comes_back(
    client: str, topics: Callable[..., str], local_kafka_factory: Callable[..., LocalKafka]
) -> None:
    broker = local_kafka_factory()
    world = KafkaWorld(client, broker.bootstrap_servers, lambda *a, **k: topics(*a, bootstrap=servers, **k))
    servers = broker.bootstrap_servers
    topic, output = world.topic(), world.topic()
    world.produce(topic, b"before")
    member = world.joined(topic)
    until(lambda: member.records, member)
    member.transport.send(outgoing(output, b"0", 0))
    until(lambda: member.delivered_, member)

    broker.kill()
    for number in range(1, 200):
        member.transport.send(outgoing(output, b"%d" % number, number))
    begun = time.monotonic()
    assert member.poll(0.2) == [] and member.transport.end_offsets(0.5) == {}
    assert member.transport.positions() == {TopicPartition(topic, 0): 1}
    member.transport.commit({TopicPartition(topic, 0): 1})
    assert time.monotonic() - begun < 3
    assert len(member.delivered_) == 1

    broker.start_node()
    until(lambda: len(member.delivered_) == 200, member)
    assert member.delivered_ == [(number, None) for number in range(200)]
    assert [record.value for record in world.read(output)] == [b"%d" % number for number in range(200)]
    world.produce(topic, b"after")
    until(lambda: member.values()[-1] == b"after", member)
    until(lambda: member.transport.joined(), member)
    member.commit({TopicPartition(topic, 0): 2})
    assert world.committed() == {TopicPartition(topic, 0): 2}

    broker.kill()
    member.transport.send(outgoing(output, b"never", 200))
    begun = time.monotonic()
    member.transport.close(2)
    assert time.monotonic() - begun < 3
    world.admin.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_after_an_outage_longer_than_its_session_a_member_waits_for_nobody(
    client: str, topics: Callable[..., str], local_kafka_factory: Callable[..., LocalKafka]
) -> None:
    session = 8.0
    broker = local_kafka_factory(properties={"group.min.session.timeout.ms": "1000"})
    servers = broker.bootstrap_servers
    world = KafkaWorld(client, servers, lambda *a, **k: topics(*a, bootstrap=servers, **k))
    topic = world.topic()
    member = world.joined(topic, settings=world.settings(session_timeout=session))
    broker.kill()
    over = time.monotonic() + 1.5 * session
    until(lambda: member.losses or time.monotonic() > over, member)
    broker.start_node()
    until(lambda: member.owned and member.transport.joined(), member, timeout=0.75 * session)
    world.produce(topic, b"after")
    until(lambda: member.values() == [b"after"], member)
    world.close()


@pytest.mark.parametrize("client", CLIENTS)
def test_no_topic_is_ever_made(client: str, local_kafka_factory: Callable[..., LocalKafka]) -> None:
    broker = local_kafka_factory(properties={"auto.create.topics.enable": "true"})
    world = KafkaWorld(client, broker.bootstrap_servers, lambda: "")
    member = world.join("missing-input", settings=world.settings(outage_deadline=1))
    assert member.transport.topic("missing-described", 5) is None
    for _ in range(20):
        member.poll()
    with suppress(TransportFault):  # a client waits in `send`, or reports that the record was not delivered
        member.transport.send(outgoing("missing-output", b""))
        until(lambda: member.delivered_, member)
        assert member.delivered_[0][1] is not None
    with KafkaAdminClient(bootstrap_servers=broker.bootstrap_servers) as admin:
        assert [name for name in admin.list_topics() if name.startswith("missing")] == []
    world.close()
