"""Defects of kafka-python 3.0.12 that the transport mends, each shown by what happens without the mend.

Once a later version fails none of these with the mend taken out, the mend can go.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from kafka import TopicPartition as KafkaPartition
from kafka import errors

from tests.conformance.worlds import DEADLINE, KafkaWorld, outgoing, until
from worker.transport.interface import TopicPartition


@pytest.fixture
def world(bootstrap: str, topics: Callable[..., str]) -> Iterator[KafkaWorld]:
    world = KafkaWorld("kafka-python", bootstrap, topics)
    yield world
    world.close()


def test_a_join_that_outlasts_many_polls_is_finished(world: KafkaWorld) -> None:
    member = world.join(world.topic(2))
    deadline = time.monotonic() + 15
    while not member.transport._rebalances.unsettled:
        member.transport._consumer.poll(timeout_ms=1)
        assert time.monotonic() < deadline, "it joins again and again"
    until(lambda: member.owned, member)


def test_who_is_thrown_out_while_it_joins_gives_up_what_it_owned(world: KafkaWorld) -> None:
    member = world.joined(world.topic(2))
    owned = set(member.owned)
    world.expel(member)
    member.transport._consumer._coordinator.request_rejoin()  # before a heartbeat tells it
    until(lambda: member.losses, member)
    assert member.losses == [owned] and not member.revocations
    until(lambda: len(member.owned) == 2, member)


@pytest.mark.parametrize("told", [True, False])
def test_who_is_thrown_out_claims_nothing_when_it_joins_again(
    world: KafkaWorld, monkeypatch: pytest.MonkeyPatch, told: bool
) -> None:
    member = world.joined(world.topic(2))
    (assignor,) = member.transport._consumer._coordinator._assignors.values()
    metadata, claims = assignor.metadata, []

    def noted(topics: set[str]) -> object:
        subscription = metadata(topics)
        claims.append([tp for owned in subscription.owned_partitions for tp in owned.partitions])
        return subscription

    monkeypatch.setattr(assignor, "metadata", noted)
    world.expel(member)
    if (
        not told
    ):  # by a heartbeat: then the first claim is still made in good faith, under the id that is no longer known
        member.transport._consumer._coordinator.request_rejoin()
    until(lambda: member.losses and len(member.owned) == 2, member)
    assert claims[-1] == []


def test_a_paused_buffer_does_not_wait_behind_an_empty_one(world: KafkaWorld) -> None:
    topic = world.topic(2)
    for partition in (0, 1):
        world.produce(topic, *(b"%d" % number for number in range(3000)), partition=partition)
    member = world.joined(topic)
    until(lambda: member.records, member)
    begun = KafkaPartition(topic, member.records[-1].partition)
    member.transport._consumer.pause(begun)
    until(lambda: sum(r.partition != begun.partition for r in member.records) == 3000, member)
    member.transport._consumer.resume(begun)
    until(lambda: len(member.records) == 6000, member)


def test_records_fetched_before_an_error_are_not_lost(world: KafkaWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = world.topic()
    world.produce(topic, *(b"%d" % number for number in range(5000)))
    member = world.joined(topic)
    fetcher = member.transport._consumer._fetcher
    send_fetches, failures = fetcher.send_fetches, []

    def fail_after_records() -> object:
        if not failures and member.transport.positions()[TopicPartition(topic, 0)] > len(member.records):
            failures.append(1)
            raise errors.UnknownBrokerIdError(1)
        return send_fetches()

    monkeypatch.setattr(fetcher, "send_fetches", fail_after_records)
    until(lambda: len(member.records) == 5000, member)
    assert failures and [record.offset for record in member.records] == list(range(5000))


def test_a_coordinator_that_is_away_does_not_make_the_producer_forget_its_partitions(
    world: KafkaWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic, output = world.topic(), world.topic()
    member = world.joined(topic, settings=world.settings("exactly_once"), writes=[output])
    network = member.transport._producer.client._sender._client
    is_ready, refusals = network.is_ready, []

    def not_at_once(node: object) -> bool:
        if str(node).startswith("coordinator") and len(refusals) < 4:
            refusals.append(node)
            return False
        return is_ready(node)

    monkeypatch.setattr(network, "is_ready", not_at_once)
    member.transport.send(outgoing(output, b"1", 1))
    member.transport.commit_transaction({TopicPartition(topic, 0): 1}, lambda: True, DEADLINE)
    until(lambda: [record.value for record in world.read(output)] == [b"1"])  # once its marker is written
    assert refusals
