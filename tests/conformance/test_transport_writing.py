"""What a transport promises of writing: each record's fate once and in order, and a clean way on after a refusal."""

from __future__ import annotations

import random
import time

from tests.conformance.worlds import Member, World, outgoing, until
from worker.transport.interface import DeliveryFailed, Outgoing, TopicPartition


def writer(world: World, *topics: str) -> Member:
    """A member of its group, for what it writes."""
    return world.joined(world.topic(), writes=topics)


def test_every_byte_is_written_as_given_and_reported_in_order(world: World) -> None:
    topic = world.topic(3)
    member = writer(world, topic)
    headers = (("trace", b"1"), ("trace", b"2"), ("empty", b""), ("none", None), ("ünï", b"\xff"))
    odd = [(b"k", b"v", headers), (None, b"v", ()), (b"", b"", ()), (b"k", None, ()), (None, None, (("a", None),))]
    begun = int(time.time() * 1000)
    for number in range(600):
        key, value, more = odd[number // 3] if number < 15 else (None, b"%d" % number, ())
        member.transport.send(Outgoing(topic, number % 3, key, value, more, (number % 3, number)))
    until(lambda: len(member.delivered_) == 600, member)
    assert {error for _, error in member.delivered_} == {None}
    for partition in range(3):
        tokens = [number for (where, number), _ in member.delivered_ if where == partition]
        assert tokens == list(range(partition, 600, 3))
    records = world.read(topic)
    for partition in range(3):
        mine = [record for record in records if record.partition == partition]
        assert [(r.key, r.value, r.headers) for r in mine[:5]] == odd
        assert [r.value for r in mine[5:]] == [b"%d" % number for number in range(partition + 15, 600, 3)]
        assert all(abs(record.timestamp - begun) < 30_000 for record in mine)


def test_a_record_at_the_topics_limit_is_written_and_a_larger_one_is_refused(world: World) -> None:
    """The client must not refuse by a limit of its own, and after the broker's refusal it must still be of use."""
    limit = 3_000_000
    topic = world.topic(config={"max.message.bytes": str(limit)})
    member = writer(world, topic)
    noise = random.Random(1).randbytes(limit)  # that no compression makes smaller
    member.transport.send(outgoing(topic, noise[: limit - 200], "fits"))
    until(lambda: member.delivered_, member)
    assert member.delivered_ == [("fits", None)]
    member.transport.send(outgoing(topic, noise, "too large"))
    until(lambda: len(member.delivered_) == 2, member)
    token, error = member.delivered_[1]
    assert token == "too large" and isinstance(error, DeliveryFailed) and error.too_large
    member.transport.send(outgoing(topic, b"innocent", "after"))
    until(lambda: len(member.delivered_) == 3, member)
    assert isinstance(member.delivered_[2][1], DeliveryFailed) and not member.delivered_[2][1].too_large
    member.transport.recover()
    member.transport.send(outgoing(topic, b"innocent", "again"))
    until(lambda: len(member.delivered_) == 4, member)
    assert member.delivered_[3] == ("again", None)
    assert [len(record.value) for record in world.read(topic)] == [limit - 200, 8]


def test_many_small_records_go_to_a_topic_with_a_small_limit(world: World) -> None:
    """The client gathers more than the broker takes at once: it must split, and still keep the order."""
    topic = world.topic(config={"max.message.bytes": "1500"})
    member = writer(world, topic)
    for number in range(500):
        member.transport.send(outgoing(topic, bytes([number % 256, number // 256]) * 50, number))
    until(lambda: len(member.delivered_) == 500, member)
    assert member.delivered_ == [(number, None) for number in range(500)]
    assert [r.value[:2] for r in world.read(topic)] == [bytes([n % 256, n // 256]) for n in range(500)]


def test_recovering_reads_again_from_the_commit_and_silences_what_was_sent_before(world: World) -> None:
    topic, output = world.topic(2), world.topic()
    for partition in (0, 1):
        world.produce(topic, *(b"%d" % number for number in range(20)), partition=partition)
    member = world.joined(topic)
    until(lambda: len(member.records) == 40, member)
    member.commit({TopicPartition(topic, 0): 15, TopicPartition(topic, 1): 5})
    member.transport.pause()
    for number in range(2000):
        member.transport.send(outgoing(output, b"%d" % number, ("before", number)))
    expected = {TopicPartition(topic, 0): 15, TopicPartition(topic, 1): 5}
    assert member.transport.recover() == expected
    heard = len(member.delivered_)
    assert member.transport.positions() == expected
    member.transport.send(outgoing(output, b"after", "after"))
    assert member.poll() == [], "it is still paused"
    until(lambda: len(member.delivered_) > heard, member)
    assert member.delivered_[heard:] == [("after", None)]
    member.records.clear()
    member.transport.resume()
    until(lambda: len(member.records) == 20, member)
    assert sorted(r.offset for r in member.records if r.partition == 0) == list(range(15, 20))
    assert member.owned.keys() == expected.keys() and not member.losses and not member.revocations


def test_recovering_without_a_commit_begins_where_the_partition_began(world: World) -> None:
    topic = world.topic(2)
    world.produce(topic, b"one", partition=1)
    world.commit({TopicPartition(topic, 0): 0})
    member = world.joined(topic, settings=world.settings(start="latest"))
    until(lambda: member.records, member)
    assert member.transport.recover() == {TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 0}
    until(lambda: len(member.records) == 2, member)
