"""What a transport promises of its group: drains before the new owner reads, losses without commits, a swift leave."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest

from tests.conformance.worlds import DEADLINE, KafkaWorld, Member, MemoryWorld, World, done, outgoing, until
from worker.transport.interface import (
    CommitRefused,
    Offsets,
    TopicPartition,
    TransportConfigurationError,
    TransportFault,
)


class Polling:
    """Polls a member in a thread of its own, as a pipeline does, while `poll` may wait for a drain."""

    def __init__(self, member: Member) -> None:
        self._member, self._stop = member, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            self._member.poll()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()


def owners(*members: Member) -> list[TopicPartition]:
    return sorted(partition for member in members for partition in member.owned)


def test_a_second_member_takes_half_and_every_record_is_read_once(world: World) -> None:
    topic = world.topic(4)
    for partition in range(4):
        world.produce(topic, *(b"%d" % number for number in range(50)), partition=partition)
    first = world.joined(topic)
    until(lambda: len(first.records) == 200, first)
    first.answer = lambda partitions: done({tp: at for tp, at in dict.fromkeys(partitions, 50).items()})
    second = world.join(topic)
    until(lambda: len(first.owned) == len(second.owned) == 2, first, second)
    assert len(set(owners(first, second))) == 4
    assert set(second.owned.values()) == {50}
    assert first.transport.positions().keys() == first.owned.keys()
    for partition in range(4):
        world.produce(topic, b"more", partition=partition)
    until(lambda: len(first.records) + len(second.records) == 204, first, second)
    assert not first.losses and not second.losses


def test_the_new_owner_waits_until_the_drain_is_committed(world: World) -> None:
    topic = world.topic(2)
    for partition in (0, 1):
        world.produce(topic, *(b"%d" % number for number in range(10)), partition=partition)
    first = world.joined(topic)
    until(lambda: len(first.records) == 20, first)
    answer: Future[Offsets] = Future()
    first.answer = lambda partitions: answer
    second = world.join(topic)
    with Polling(first):
        until(lambda: first.revocations, second)
        for _ in range(10):
            second.poll()
        assert second.owned == {}
        [given] = first.revocations[0]
        answer.set_result({given: 7, TopicPartition(topic, 1 - given.partition): 9})
        until(lambda: second.owned, second)
    assert second.owned == {given: 7}  # and not 9 for the one that was not given away
    assert world.committed() == {given: 7, TopicPartition(topic, 1 - given.partition): 0}
    until(lambda: len(second.records) == 3, second)


def test_a_drain_longer_than_the_session_keeps_the_membership(kafka: KafkaWorld) -> None:
    """In two groups at the same time, because it takes long: at least once, and in a transaction."""
    topic, output = kafka.topic(2), kafka.topic()
    for partition in (0, 1):
        kafka.produce(topic, *(b"%d" % number for number in range(10)), partition=partition)

    def group(delivery: str) -> tuple[Member, Member, Future[Offsets]]:
        settings = kafka.settings(delivery, group_id=f"{kafka.group}-{delivery}", session_timeout=6)
        first = kafka.joined(topic, settings=settings)
        until(lambda: len(first.records) == 20, first)
        answer: Future[Offsets] = Future()
        first.answer = lambda partitions: answer
        return first, kafka.join(topic, settings=settings), answer

    (plain, plain_next, plain_answer), (exact, exact_next, exact_answer) = map(group, ["at_least_once", "exactly_once"])
    with Polling(plain), Polling(exact):
        until(lambda: plain.revocations and exact.revocations, plain_next, exact_next)
        exact.transport.send(outgoing(output, b"result", 0))
        drained_at = time.monotonic() + 8
        until(lambda: time.monotonic() > drained_at, plain_next, exact_next)
        assert plain_next.owned == exact_next.owned == {}
        [plain_given], [exact_given] = plain.revocations[0], exact.revocations[0]
        plain_answer.set_result({plain_given: 7})
        exact.transport.commit_transaction({exact_given: 7}, lambda: True, DEADLINE)
        exact_answer.set_result({})
        until(lambda: plain_next.records and exact_next.records, plain_next, exact_next)
        until(lambda: plain.transport.joined() and exact.transport.joined(), plain_next, exact_next)
    assert plain_next.owned == {plain_given: 7} and exact_next.owned == {exact_given: 7}
    assert plain_next.records[0].offset == exact_next.records[0].offset == 7
    assert [record.value for record in kafka.read(output)] == [b"result"]
    assert not plain.losses and len(plain.owned) == 1
    assert not exact.losses and len(exact.owned) == 1


def test_a_drain_past_its_bound_is_lost_and_commits_nothing(world: World) -> None:
    topic = world.topic(2)
    settings = world.settings(max_poll_interval=6, session_timeout=6)  # the bound: 5 s, at least
    first = world.joined(topic, settings=settings)
    answer: Future[Offsets] = Future()
    first.answer = lambda partitions: answer
    second = world.join(topic, settings=settings)
    with Polling(first):
        until(lambda: second.owned, second)
        [given] = first.losses[0]
        answer.set_result({given: 5})
    assert second.owned == {given: 0}
    assert world.committed()[given] == 0


def test_a_lost_membership_drops_everything_and_joins_again(world: World) -> None:
    topic = world.topic(2)
    for partition in (0, 1):
        world.produce(topic, *(b"%d" % number for number in range(10)), partition=partition)
    member = world.joined(topic)
    until(lambda: len(member.records) == 20, member)
    owned = set(member.owned)
    member.commit(dict.fromkeys(owned, 4))
    world.expel(member)
    with pytest.raises(CommitRefused):
        member.commit(dict.fromkeys(owned, 8))
    until(lambda: member.losses, member)
    assert member.losses == [owned] and not member.revocations
    until(lambda: len(member.owned) == 2, member)
    assert member.owned == dict.fromkeys(owned, 4)
    until(lambda: len(member.records) == 32, member)


def test_who_stops_polling_loses_its_partitions_and_joins_again(kafka: KafkaWorld) -> None:
    topic = kafka.topic(2)
    settings = kafka.settings(max_poll_interval=6, session_timeout=6)
    first = kafka.joined(topic, settings=settings)
    owned = set(first.owned)
    second = kafka.join(topic, settings=settings)
    first.answer = lambda partitions: done(
        dict.fromkeys(partitions, 5)
    )  # a client may not know yet that it is too late
    until(lambda: len(second.owned) == 2, second)
    until(lambda: set().union(*first.losses, *first.revocations) == owned, first, second)
    assert first.losses
    assert kafka.committed() == dict.fromkeys(owned, 0)
    until(lambda: len(first.owned) == len(second.owned) == 1, first, second)


def test_a_partition_that_comes_while_paused_is_paused_too(world: World) -> None:
    topic = world.topic(4)
    first, second = world.joined(topic), world.join(topic)
    until(lambda: len(first.owned) == len(second.owned) == 2, first, second)
    first.transport.pause()
    for partition in range(4):
        world.produce(topic, *(b"%d" % number for number in range(1200)), partition=partition)
    until(lambda: len(second.records) == 2400, first, second)
    second.commit(second.transport.positions())
    second.transport.close(5)
    until(lambda: len(first.owned) == 4, first)
    for _ in range(10):
        assert first.poll() == []
    first.transport.resume()
    until(lambda: len(first.records) == 2400, first)
    assert first.transport.positions() == dict.fromkeys(first.owned, 1200)


def test_a_partition_that_went_while_paused_is_read_when_it_comes_back(world: World) -> None:
    topic = world.topic(2)
    first = world.joined(topic)
    first.transport.pause()
    second = world.join(topic)
    until(lambda: len(first.owned) == len(second.owned) == 1, first, second)
    first.transport.resume()
    second.transport.close(5)
    until(lambda: len(first.owned) == 2, first)
    for partition in range(2):
        world.produce(topic, b"new", partition=partition)
    until(lambda: first.values() == [b"new", b"new"], first)


def test_a_partition_that_is_added_is_read_from_its_beginning(world: World) -> None:
    topic = world.topic(1)
    member = world.joined(topic, settings=world.settings(start="latest"))
    world.produce(topic, b"old")
    until(lambda: member.records, member)
    world.add_partitions(topic, 2, member)
    world.produce(topic, b"new", partition=1)
    until(lambda: len(member.records) == 2, member)
    assert member.owned[TopicPartition(topic, 1)] == 0


def test_leaving_is_noticed_at_once(world: World) -> None:
    topic = world.topic(2)
    first, second = world.joined(topic), world.join(topic)
    until(lambda: len(first.owned) == len(second.owned) == 1, first, second)
    begun = time.monotonic()
    first.transport.close(5)
    assert time.monotonic() - begun < 2
    until(lambda: len(second.owned) == 2, second)
    assert time.monotonic() - begun < 6, "it waited for the session to time out"
    assert not first.losses  # the listener heard no more
    assert first.transport.poll(0.05) == []


def test_closing_ends_a_poll_that_waits_for_a_drain(world: World) -> None:
    topic = world.topic(2)
    first = world.joined(topic)
    first.answer = lambda partitions: Future()
    second = world.join(topic)
    with Polling(first):
        until(lambda: first.revocations, second)
        begun = time.monotonic()
        first.transport.close(5)
        assert time.monotonic() - begun < 3
    until(lambda: len(second.owned) == 2, second)


def test_leaving_is_noticed_at_once_while_a_rebalance_waits_for_somebody_else(world: World) -> None:
    topic = world.topic(4)
    first, second = world.joined(topic), world.join(topic)
    until(lambda: len(second.owned) == 2, first, second)
    third = world.join(topic)
    with Polling(first):
        for _ in range(20):
            third.poll()  # and second does not answer the call to join again
        begun = time.monotonic()
        first.transport.close(5)
        assert time.monotonic() - begun < 3
    until(lambda: len(second.owned) == len(third.owned) == 2, second, third)
    assert time.monotonic() - begun < 6, "it waited for the session to time out"


def test_joined_says_whether_it_is_a_member(world: World) -> None:
    topic = world.topic(1)
    first, second = world.joined(topic), world.join(topic)
    assert first.transport.joined() and not second.transport.joined()
    until(lambda: second.transport.joined(), first, second)
    assert len(owners(first, second)) == 1


def test_a_worker_with_the_same_instance_id_takes_over(kafka: KafkaWorld) -> None:
    topic = kafka.topic(2)
    settings = kafka.settings(instance_id="worker-1")
    first = kafka.joined(topic, settings=settings)
    if kafka.client.endswith("consumer"):  # KIP-848: who comes first stays
        with pytest.raises(TransportFault, match="another worker with the instance id worker-1"):
            kafka.joined(topic, settings=settings)
        return
    second = kafka.joined(topic, settings=settings)
    assert second.owned.keys() == first.owned.keys()
    with pytest.raises(TransportFault, match="another worker with the instance id worker-1 took over"):
        until(lambda: False, first)


@pytest.mark.parametrize("when", ["while it is away", "once it is back"])
def test_partitions_added_around_a_static_members_restart_are_read(kafka: KafkaWorld, when: str) -> None:
    topic = kafka.topic(1)
    settings = kafka.settings(instance_id="worker-1")
    kafka.joined(topic, settings=settings).transport.close(5)
    if when == "while it is away":
        kafka.add_partitions(topic, 3)
    second = kafka.joined(topic, settings=settings)
    if when == "once it is back":
        kafka.add_partitions(topic, 3, second)
    until(lambda: len(second.owned) == 3, second)


def test_a_session_timeout_the_broker_refuses_is_a_configuration_error(kafka: KafkaWorld) -> None:
    if kafka.client.endswith("consumer"):
        pytest.skip("the brokers decide")
    member = kafka.join(kafka.topic(), settings=kafka.settings(session_timeout=1, heartbeat_interval=0.3))
    with pytest.raises(TransportConfigurationError, match=r"kafka\.session_timeout 1 s"):
        until(lambda: False, member)


def test_memory_expels_by_member() -> None:
    world = MemoryWorld()
    member = world.joined(world.topic())
    world.expel(member)
    assert not member.transport.joined()
