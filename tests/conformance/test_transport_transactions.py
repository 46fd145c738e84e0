"""What a transport promises of exactly-once delivery: results and offsets together or not at all, and one writer."""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing.synchronize import Event

import pytest
from confluent_kafka import Producer

from tests.conformance.worlds import DEADLINE, KafkaWorld, Member, World, outgoing, until
from worker.settings import Settings
from worker.tools.local_kafka import LocalKafka
from worker.transport import (
    kafka_python_exactly_once,
    kafka_python_transactions,
    librdkafka_producer,
    make_transport,
)
from worker.transport.interface import Offsets, TopicPartition, TransactionAborted, TransportFault


def joined(world: World, topic: str, *writes: str, **kafka: object) -> Member:
    return world.joined(topic, settings=world.settings("exactly_once", **kafka), writes=writes)


def commit(member: Member, offsets: Offsets, *, still_owned: bool = True) -> None:
    member.transport.commit_transaction(offsets, lambda: still_owned, DEADLINE)


def follows(condition: Callable[[], bool]) -> None:
    """Kafka answers the end of a transaction before each partition has its marker: readers see it a moment later."""
    until(condition, timeout=5)


def values(world: World, topic: str) -> list[bytes | None]:
    return [record.value for record in world.read(topic)]


def test_results_and_offsets_appear_together(world: World) -> None:
    topic, outputs = world.topic(), [world.topic(2), world.topic()]
    partition = TopicPartition(topic, 0)
    world.produce(topic, b"1", b"2", b"3")
    member = joined(world, topic)
    for round_ in range(3):
        member.transport.send(outgoing(outputs[0], b"%d" % round_, round_, partition=round_ % 2))
        member.transport.send(outgoing(outputs[1], b"letter", "letter"))
        assert len(values(world, outputs[0])) == len(values(world, outputs[1])) == round_
        assert world.committed() == {partition: round_}
        commit(member, {partition: round_ + 1})
        assert {token for token, error in member.delivered_[-2:] if error is None} == {round_, "letter"}
        follows(lambda: len(values(world, outputs[0])) == len(values(world, outputs[1])) == round_ + 1)  # noqa: B023
        follows(lambda: world.committed() == {partition: round_ + 1})  # noqa: B023


def test_without_results_offsets_are_committed_and_without_either_nothing_happens(world: World) -> None:
    topic = world.topic()
    member = joined(world, topic)
    commit(member, {})
    commit(member, {TopicPartition(topic, 0): 5})
    follows(lambda: world.committed() == {TopicPartition(topic, 0): 5})
    commit(member, {})


def test_an_aborted_transaction_leaves_no_trace_and_the_next_one_works(world: World) -> None:
    topic, output = world.topic(2), world.topic()
    one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
    world.produce(topic, b"a", b"b")
    member = joined(world, topic)
    until(lambda: len(member.records) == 2, member)
    member.transport.send(outgoing(output, b"void", 0))
    with pytest.raises(TransactionAborted):
        commit(member, {one: 2}, still_owned=False)
    assert member.transport.recover() == {one: 0, two: 0}
    until(lambda: len(member.records) == 4, member)
    member.transport.send(outgoing(output, b"good", 1))
    commit(member, {two: 0})
    follows(lambda: values(world, output) == [b"good"])
    follows(lambda: world.committed() == {one: 0, two: 0})


def test_offsets_of_an_aborted_transaction_do_not_come_with_the_next(world: World) -> None:
    """They had reached the client when the broker refused the membership."""
    topic, output = world.topic(2), world.topic()
    one, two = TopicPartition(topic, 0), TopicPartition(topic, 1)
    member = joined(world, topic)
    world.expel(member)
    member.transport.send(outgoing(output, b"void", 0))
    with pytest.raises(TransactionAborted):
        commit(member, {one: 2})
    member.transport.recover()
    until(lambda: member.losses and len(member.owned) == 2, member)
    member.transport.send(outgoing(output, b"good", 1))
    commit(member, {two: 7})
    follows(lambda: values(world, output) == [b"good"])
    follows(lambda: world.committed() == {one: 0, two: 7})


def test_who_is_not_a_member_commits_nothing(world: World) -> None:
    """The broker takes offsets without a generation from anybody."""
    topic, output = world.topic(), world.topic()
    member = world.join(topic, settings=world.settings("exactly_once"))
    member.transport.send(outgoing(output, b"void", 0))
    with pytest.raises(TransactionAborted):
        commit(member, {TopicPartition(topic, 0): 5})
    assert world.committed() == {} and values(world, output) == []


def test_a_refused_record_aborts_and_recovery_makes_it_usable_again(world: World) -> None:
    topic = world.topic()
    output = world.topic(config={"max.message.bytes": "5000"})
    member = joined(world, topic, output)
    for token, value in enumerate([b"fine", random.Random(1).randbytes(20_000), b"behind"]):
        member.transport.send(outgoing(output, value, token))
    with pytest.raises(TransactionAborted):
        commit(member, {TopicPartition(topic, 0): 1})
    assert [error.too_large for _, error in member.delivered_ if error][:1] == [True]
    member.transport.recover()
    member.transport.send(outgoing(output, b"good", 3))
    commit(member, {TopicPartition(topic, 0): 1})
    follows(lambda: values(world, output) == [b"good"])


def test_a_worker_with_the_same_id_takes_over_and_the_older_one_stops(world: World) -> None:
    topic, output = world.topic(), world.topic()
    partition = TopicPartition(topic, 0)
    older = joined(world, topic, instance_id="worker-1")
    older.transport.send(outgoing(output, b"older", 0))
    until(lambda: older.delivered_, older)
    begun = time.monotonic()
    newer = world.join(topic, settings=world.settings("exactly_once", instance_id="worker-1"))
    newer.transport.send(outgoing(output, b"newer", 0))
    with pytest.raises(TransportFault, match="another worker with the"):
        try:
            commit(older, {partition: 1})
        except TransactionAborted:
            older.transport.recover()
    older.transport.close(5)
    if not world.memory and world.client.endswith("consumer"):
        return  # KIP-848 refuses the newer one, as long as the older one is a member
    until(lambda: newer.owned, newer)
    commit(newer, {partition: 1})
    follows(lambda: values(world, output) == [b"newer"])
    assert time.monotonic() - begun < 10, "it waited for the older one's transaction to time out"


def test_a_drain_commits_in_its_transaction_before_the_new_owner_reads(world: World) -> None:
    topic, output = world.topic(2), world.topic()
    for partition in (0, 1):
        world.produce(topic, *(b"%d" % number for number in range(10)), partition=partition)
    first = joined(world, topic)
    until(lambda: len(first.records) == 20, first)
    first.transport.send(outgoing(output, b"result", 0))
    answer: Future[Offsets] = Future()
    first.answer = lambda partitions: answer
    second = world.join(topic, settings=world.settings("exactly_once"))
    stop = threading.Event()
    polling = threading.Thread(target=lambda: [first.poll() for _ in iter(stop.is_set, True)])
    polling.start()
    try:
        until(lambda: first.revocations, second)
        [given] = first.revocations[0]
        commit(first, {given: 7})
        answer.set_result({})
        until(lambda: second.owned, second)
    finally:
        stop.set()
        polling.join(DEADLINE)
    assert second.owned == {given: 7}
    follows(lambda: values(world, output) == [b"result"])


def test_leaving_with_an_open_transaction_holds_no_reader_back(world: World) -> None:
    topic, output = world.topic(), world.topic()
    member = joined(world, topic)
    member.transport.send(outgoing(output, b"never", 0))
    until(lambda: member.delivered_, member)
    world.produce(output, b"behind it")
    assert values(world, output) == []
    member.transport.close(5)
    until(lambda: values(world, output) == [b"behind it"], timeout=5)


BOTH_CLIENTS = ["kafka-python", "librdkafka"]


def send_and_wait(settings: Settings, topic: str, output: str, timeout: float | None, sent: Event) -> None:
    """A worker to be killed, with `timeout` seconds for its transactions instead of the usual ones."""
    if timeout is not None:
        socket_ms = int(timeout * 1000)  # librdkafka takes no longer one than the transaction's
        librdkafka_producer.Producer = lambda config: Producer({**config, "socket.timeout.ms": socket_ms})
        librdkafka_producer.TRANSACTION_TIMEOUT = timeout
        kafka_python_exactly_once.TRANSACTION_TIMEOUT_MS = int(timeout * 1000)
        kafka_python_transactions.TRANSACTION_TIMEOUT_MS = int(timeout * 1000)
    member = Member(make_transport(settings), [topic])
    until(lambda: member.owned, member)
    member.transport.send(outgoing(output, b"never", 0))
    until(lambda: member.delivered_, member)
    sent.set()
    until(lambda: False, member, timeout=60)


def kill_with_an_open_transaction(settings: Settings, topic: str, output: str, timeout: float | None = None) -> None:
    processes = multiprocessing.get_context("spawn")
    sent = processes.Event()
    worker = processes.Process(target=send_and_wait, args=(settings, topic, output, timeout, sent), daemon=True)
    worker.start()
    try:
        assert sent.wait(DEADLINE)
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("kafka", BOTH_CLIENTS, indirect=True)
def test_a_killed_workers_successor_with_its_id_ends_what_it_left_open(kafka: KafkaWorld) -> None:
    topic, output = kafka.topic(), kafka.topic()
    settings = kafka.settings("exactly_once", instance_id="worker-1")
    kill_with_an_open_transaction(settings, topic, output)
    kafka.produce(output, b"behind it")
    assert values(kafka, output) == []
    begun = time.monotonic()
    successor = kafka.joined(topic, settings=settings)
    successor.transport.send(outgoing(output, b"result", 0))
    commit(successor, {TopicPartition(topic, 0): 1})
    until(lambda: values(kafka, output) == [b"behind it", b"result"], timeout=4)
    assert time.monotonic() - begun < 10, "it waited for the killed one's transaction to time out"


@pytest.mark.parametrize("client", BOTH_CLIENTS)
def test_a_killed_worker_holds_readers_back_no_longer_than_its_transaction_timeout(
    client: str, topics: Callable[..., str], local_kafka_factory: Callable[..., LocalKafka]
) -> None:
    """Where its successor is another, the broker ends what it left open; it looks for that every 10 s otherwise."""
    quick = {
        "transaction.abort.timed.out.transaction.cleanup.interval.ms": "200",
        "group.min.session.timeout.ms": "1000",
    }
    servers = local_kafka_factory(properties=quick).bootstrap_servers
    world = KafkaWorld(client, servers, lambda *a, **k: topics(*a, bootstrap=servers, **k))
    topic, output = world.topic(), world.topic()
    settings = world.settings("exactly_once", session_timeout=1)
    kill_with_an_open_transaction(settings, topic, output, timeout=2)
    successor = world.joined(topic, settings=settings)
    successor.transport.send(outgoing(output, b"result", 0))
    commit(successor, {TopicPartition(topic, 0): 1})
    until(lambda: values(world, output) == [b"result"], timeout=4)
    world.close()
