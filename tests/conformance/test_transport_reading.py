"""What a transport promises of reading: what comes, in which order, from where, and what counts as read."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.conformance.worlds import KafkaWorld, Member, MemoryWorld, World, until
from worker.transport import make_transport
from worker.transport.interface import (
    CommitRefused,
    TopicPartition,
    TransportFault,
    TransportUnavailable,
)


def numbers(*values: int) -> list[bytes]:
    return [b"%d" % value for value in values]


def test_a_topic_is_described_and_a_missing_one_is_not_made(world: World) -> None:
    topic = world.topic(3, {"max.message.bytes": "2000", "cleanup.policy": "compact"})
    transport = world.transport(world.settings())
    transport.connect(10)
    info = transport.topic(topic, 10)
    assert info is not None
    assert (info.partitions, info.max_message_bytes, info.cleanup_policy) == (3, 2000, "compact")
    assert transport.topic("missing-" + topic, 10) is None
    assert transport.topic("missing-" + topic, 10) is None


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_no_broker_is_one_line_in_time(kafka: KafkaWorld, deaf_port: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed_port = server.getsockname()[1]
    for address in (f"127.0.0.1:{closed_port}", f"127.0.0.1:{deaf_port}", "no-such-host.invalid:9092"):
        settings = kafka.settings().model_copy(deep=True)
        settings.kafka.bootstrap_servers = address
        begun = time.monotonic()
        with pytest.raises(TransportUnavailable) as caught:
            kafka.make_transport(settings).connect(1.5)
        assert time.monotonic() - begun < 3.5
        assert address in str(caught.value) and "\n" not in str(caught.value)


def test_every_byte_arrives_in_order(world: World) -> None:
    topic = world.topic(2)
    headers = (("trace", b"1"), ("trace", b"2"), ("empty", b""), ("none", None), ("ünï", b"\xff"))
    for partition in (0, 1):
        records = [
            (b"k", b"v", headers),
            (None, b"v", ()),
            (b"", b"", ()),
            (b"k", None, ()),
            (None, None, (("a", None),)),
        ]
        world.produce_records(topic, records, partition)
        world.produce(topic, *numbers(*range(200)), partition=partition)
    begun = int(time.time() * 1000)
    member = world.joined(topic)
    until(lambda: len(member.records) == 410, member)
    for partition in (0, 1):
        mine = [record for record in member.records if record.partition == partition]
        assert [record.offset for record in mine] == list(range(205))
        assert [(r.key, r.value, r.headers) for r in mine[:5]] == records
        assert [record.value for record in mine[5:]] == numbers(*range(200))
        assert all(record.topic == topic and abs(record.timestamp - begun) < 30_000 for record in mine)


def test_a_successor_goes_on_from_what_was_committed(world: World) -> None:
    topic = world.topic()
    partition = TopicPartition(topic, 0)
    world.produce(topic, *numbers(*range(10)))
    first = world.joined(topic)
    until(lambda: len(first.records) == 10, first)
    assert first.transport.positions() == {partition: 10}
    first.commit({partition: 4})
    assert world.committed() == {partition: 4}
    first.transport.close(5)
    second = world.joined(topic)
    assert second.owned == {partition: 4}
    until(lambda: len(second.records) == 6, second)
    assert second.values() == numbers(*range(4, 10))


def test_positions_pass_over_aborted_records_and_markers(world: World) -> None:
    topic = world.topic()
    partition = TopicPartition(topic, 0)
    member = world.joined(topic)
    with world.transaction(topic, b"one", b"two"):
        pass
    until(lambda: member.transport.positions() == {partition: 3}, member)  # two records and a marker
    with world.transaction(topic, b"never", b"seen", commit=False):
        pass
    until(lambda: member.transport.positions() == {partition: 6}, member)
    assert member.values() == [b"one", b"two"]
    assert member.transport.end_offsets(10) == {partition: 6}


def test_an_open_transaction_is_neither_read_nor_counted_as_readable(world: World) -> None:
    topic = world.topic()
    partition = TopicPartition(topic, 0)
    world.produce(topic, b"before")
    member = world.joined(topic)
    with world.transaction(topic, b"open"):
        world.produce(topic, b"behind it")
        until(lambda: member.records, member)
        for _ in range(5):
            member.poll()
        assert member.values() == [b"before"]
        assert member.transport.positions() == member.transport.end_offsets(10) == {partition: 1}
    until(lambda: len(member.records) == 3, member)
    assert member.values() == [b"before", b"open", b"behind it"]


def test_pause_stops_records_and_resume_brings_every_one(world: World) -> None:
    topic = world.topic(3)
    for partition in range(3):
        world.produce(topic, *numbers(*range(1500)), partition=partition)
    member = world.joined(topic)
    until(lambda: member.records, member)
    for _ in range(20):
        member.transport.pause()
        assert [member.poll() for _ in range(2)] == [[], []]
        member.transport.resume()
        member.poll()
    until(lambda: len(member.records) == 4500, member)
    for partition in range(3):
        assert [r.offset for r in member.records if r.partition == partition] == list(range(1500))


def test_records_that_come_while_paused_are_read_after(world: World) -> None:
    topic = world.topic()
    member = world.joined(topic)
    member.transport.pause()
    member.transport.resume()  # nothing was polled in between
    member.transport.pause()
    world.produce(topic, b"late")
    for _ in range(5):
        assert member.poll() == []
    member.transport.resume()
    until(lambda: member.records, member)


def test_the_first_start_commits_at_once_for_all_partitions(world: World) -> None:
    topic = world.topic(3)
    world.produce(topic, *numbers(*range(5)), partition=1)
    member = world.joined(topic, settings=world.settings(start="latest"))
    expected = {TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 5, TopicPartition(topic, 2): 0}
    assert member.owned == expected
    assert world.committed() == expected
    world.produce(topic, b"new", partition=1)
    until(lambda: member.records, member)
    assert member.values() == [b"new"]


def test_the_first_start_at_a_time(world: World) -> None:
    topic = world.topic(2)
    world.produce(topic, *numbers(*range(3)))
    later = datetime.now(UTC) + timedelta(milliseconds=5)
    while datetime.now(UTC) < later:
        time.sleep(0.001)
    world.produce(topic, b"after")
    member = world.joined(topic, settings=world.settings(start=later - timedelta(milliseconds=2)))
    assert member.owned == {TopicPartition(topic, 0): 3, TopicPartition(topic, 1): 0}


def test_a_partition_without_a_commit_among_others_is_new(world: World) -> None:
    topic = world.topic(2)
    for partition in (0, 1):
        world.produce(topic, *numbers(*range(5)), partition=partition)
    world.commit({TopicPartition(topic, 1): 2})
    member = world.joined(topic, settings=world.settings(start="latest"))
    assert member.owned == {TopicPartition(topic, 0): 0, TopicPartition(topic, 1): 2}


def test_a_committed_offset_out_of_range_is_a_fault_that_says_what_to_do(world: World) -> None:
    topic = world.topic()
    world.produce(topic, *numbers(*range(10)))
    world.commit({TopicPartition(topic, 0): 2})
    world.truncate(topic, before=6)
    member = world.join(topic)
    with pytest.raises(TransportFault) as caught:
        until(lambda: member.records, member)
    said = str(caught.value)
    assert f"{topic}-0: offset 2 of the group {world.group} is out of range, the topic holds 6 to 10" in said
    assert (
        f"review-worker offsets set --topic {topic} --partition 0 --to earliest --kafka.group_id={world.group}" in said
    )


def test_a_committed_offset_beyond_the_end_is_a_fault(world: World) -> None:
    """As when the topic was made anew: to start over, or to wait until it has grown as far, would be silent loss."""
    topic = world.topic()
    world.commit({TopicPartition(topic, 0): 50})
    world.produce(topic, *numbers(*range(10)))
    member = world.join(topic)
    with pytest.raises(TransportFault, match="out of range"):
        until(lambda: member.records, member)


def test_a_commit_for_a_partition_not_owned_is_refused(world: World) -> None:
    topic = world.topic(2)
    world.produce(topic, *numbers(*range(5)))
    member = world.joined(topic)
    elsewhere = TopicPartition(topic, 7)
    with pytest.raises(CommitRefused):
        member.commit({elsewhere: 1})
    until(lambda: member.records, member)
    member.commit({TopicPartition(topic, 0): 3, elsewhere: 1})
    assert world.committed() == {TopicPartition(topic, 0): 3, TopicPartition(topic, 1): 0}


def test_several_topics_are_read_by_one_member(world: World) -> None:
    topics = [world.topic(), world.topic()]
    for topic in topics:
        world.produce(topic, topic.encode())
    member = world.joined(*topics)
    until(lambda: len(member.records) == 2, member)
    assert sorted(member.values()) == sorted(topic.encode() for topic in topics)


def test_make_transport_takes_the_client_of_the_settings(bootstrap: str) -> None:
    world = MemoryWorld()
    settings = world.settings(client="kafka-python", bootstrap_servers=bootstrap)
    transport = make_transport(settings)
    assert transport.name == "kafka-python"
    transport.close(1)


def test_holes_of_compaction_are_passed_over(world: World) -> None:
    topic, end = world.compacted()
    until(lambda: len(world.read(topic)) == 2, timeout=60)
    member = Member(world.transport(world.settings()), [topic])
    until(lambda: member.transport.positions() == {TopicPartition(topic, 0): end}, member)
    assert [(record.offset, record.value) for record in member.records] == [(4, b"4"), (5, b"x")]
