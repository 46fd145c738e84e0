"""The faults of the Kafka in memory: what it does right is in the conformance suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.worlds import MemoryWorld, outgoing
from worker.transport.interface import DeliveryFailed, TopicPartition, TransactionAborted, TransportUnavailable
from worker.transport.start import starting_offsets


@pytest.fixture
def world() -> Iterator[MemoryWorld]:
    world = MemoryWorld()
    yield world
    world.close()


def test_held_acknowledgements_come_when_released(world: MemoryWorld) -> None:
    member = world.joined(topic := world.topic())
    world.broker.hold_acks = True
    member.transport.send(outgoing(topic, b"v", 1))
    member.poll(0)
    assert member.delivered_ == [] and member.values() == [b"v"]
    world.broker.release_acks()
    member.poll(0)
    assert member.delivered_ == [(1, None)]


def test_a_refused_record_is_not_written_and_poisons_the_producer_until_recovery(world: MemoryWorld) -> None:
    member = world.joined(world.topic())
    output = world.topic()
    world.broker.refuse_produce = lambda record: DeliveryFailed("no room") if record.value == b"bad" else None
    for token, value in enumerate([b"good", b"bad", b"behind"]):
        member.transport.send(outgoing(output, value, token))
    member.poll(0)
    assert [error is None for _, error in member.delivered_] == [True, False, False]
    member.transport.recover()
    member.transport.send(outgoing(output, b"again", 3))
    member.poll(0)
    assert member.delivered_[3] == (3, None)
    assert [record.value for record in world.read(output)] == [b"good", b"again"]


def test_a_refused_commit_changes_nothing(world: MemoryWorld) -> None:
    member = world.joined(topic := world.topic())
    world.broker.refuse_commit = TimeoutError("slow")
    with pytest.raises(TimeoutError):
        member.transport.commit({TopicPartition(topic, 0): 0}).result(0)


def test_a_broker_that_is_down_answers_nothing(world: MemoryWorld) -> None:
    member = world.joined(topic := world.topic())
    world.produce(topic, b"v")
    world.broker.down = True
    assert member.poll(0) == [] and member.transport.end_offsets(0) == {}
    with pytest.raises(TransportUnavailable):
        world.transport(world.settings()).connect(0)
    world.broker.down = False
    assert len(member.poll(0)) == 1


def test_transactions_are_aborted_on_demand(world: MemoryWorld) -> None:
    topic, output = world.topic(), world.topic()
    member = world.joined(topic, settings=world.settings("exactly_once"))
    world.broker.abort_commits = 1
    for value in (b"first", b"second"):
        member.transport.send(outgoing(output, value, value))
        try:
            member.transport.commit_transaction({TopicPartition(topic, 0): 1}, lambda: True, 1)
        except TransactionAborted:
            assert world.committed() == {TopicPartition(topic, 0): 0}
            member.transport.recover()
    assert [record.value for record in world.read(output)] == [b"second"]
    assert world.committed() == {TopicPartition(topic, 0): 1}


def test_a_first_commit_by_another_member_meanwhile_is_not_undone() -> None:
    one, two = TopicPartition("t", 0), TopicPartition("t", 1)

    class Lookup:
        asked = 0

        def partitions(self, topic):
            return [one, two]

        def committed(self, partitions):
            self.asked += 1
            return {} if self.asked == 1 else {one: 7, two: 9}

        def end(self, partitions):
            return dict.fromkeys(partitions, 100)

    def commit(offsets):
        raise AssertionError("the other member's commit stands")

    assert starting_offsets([two], "latest", Lookup(), commit) == {two: 9}
