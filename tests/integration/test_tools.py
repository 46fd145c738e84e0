"""The tools around a worker, on real Kafka: topics, produce, tail, offsets."""

from __future__ import annotations

import json
import signal
import time
import uuid
from datetime import UTC, datetime

import pytest
from kafka import KafkaConsumer

from tests.fakes.stream import connection
from tests.fakes.tools import content, finish, put, start
from worker.configuration import ConfigurationError
from worker.settings import KafkaSettings
from worker.tools.local_kafka import LocalKafka
from worker.tools.topics import create
from worker.transport.admin import Admin
from worker.transport.interface import TopicInfo, TopicPartition

# topics ---------------------------------------------------------------------------------------------------------


def test_topics_are_made_once_and_what_exists_is_left_alone(bootstrap, topics):
    mine = uuid.uuid4().hex[:8]
    output = topics("labelled", partitions=3, config={"retention.ms": "1000"})
    stream = {
        "kafka.bootstrap_servers": bootstrap,
        "kafka.input_topic": f"reviews-{mine}",
        "kafka.output_topic": output,
        "kafka.dead_letter_topic": f"dead-{mine}",
    }
    made = json.loads(finish(start(stream, "topics", "create", "--json"))[0])["topics"]
    with Admin(kafka := connection(stream)) as admin:
        limit = admin.topic(kafka.input_topics[0]).max_message_bytes + 64 * 1024
        dead, brokers = admin.topic(kafka.dead_letter_topic), admin.brokers()
        assert dead == TopicInfo(12, limit, "delete", 2 if brokers > 2 else 1, min(3, brokers), 30 * 86_400_000)
        before = admin.topic(output)
    assert [topic["created"] for topic in made] == [True, False, True]
    put(stream, f"reviews-{mine}", [(11, b"key", b"value", ())])  # it can be used at once

    words, _ = finish(start(stream, "topics", "create"))
    assert words.count("exists") == 3
    assert "differs, and stays as it is: partitions is 3, 12 would be sane" in words
    assert "retention_ms is 1000, 604800000 would be sane" in words
    with Admin(kafka) as admin:
        assert admin.topic(output) == before


@pytest.fixture(scope="module")
def three_nodes():
    with LocalKafka(nodes=3) as kafka:
        yield KafkaSettings(bootstrap_servers=kafka.bootstrap_servers)


def test_topics_are_known_to_every_broker_once_they_are_made(three_nodes):
    with Admin(three_nodes) as admin:
        assert [outcome.differences for outcome in create(admin, three_nodes)] == [{}, {}, {}]
        found = [admin.topic(three_nodes.output_topic) for _ in range(10)]  # each time of a broker at random
    assert [info and (info.replication_factor, info.min_insync_replicas) for info in found] == [(3, 2)] * 10


def test_a_coordinator_that_is_another_now_is_found(three_nodes):
    """kafka-python's admin client would ask the one that it knows for good."""
    with Admin(three_nodes, timeout=5) as admin:
        assert admin.committed("nobody") == {}
        ((key, node),) = admin._client._manager.cluster._coordinators.items()
        admin._client._manager.cluster._coordinators[key] = node % 3 + 1
        assert admin.committed("nobody") == {}


# produce and tail -----------------------------------------------------------------------------------------------


def test_what_is_produced_comes_out_of_tail(stream, tmp_path):
    path, topic = tmp_path / "r.jsonl", stream["kafka.output_topic"]
    rows = [{"review_id": f"r{n}", "text": f"é {n}", "product_id": f"p{n % 5}"} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tail = start(stream, "tail", "--count", "100", "--json")
    assert "Ctrl-C ends" in tail.stderr.readline()  # it knows from where it reads
    produced = start(stream, "produce", "--input", str(path), "--topic", topic, "--rate", "200/s", "--json")
    summary = json.loads(finish(produced)[0])
    shown = [json.loads(line) for line in finish(tail)[0].splitlines()]

    assert summary["produced"] == 100 and summary["unacknowledged"] == 0
    assert summary["seconds"] >= 0.49  # 99 intervals of 5 ms
    assert sorted(shown, key=lambda row: int(row["review_id"][1:])) == rows
    places: dict[bytes | None, set[int]] = {}
    for record in content(stream, topic):
        places.setdefault(record.key, set()).add(record.partition)
        assert json.loads(record.value)["product_id"].encode() == record.key
    assert len(places) == 5 and all(len(partitions) == 1 for partitions in places.values())


def test_ctrl_c_ends_both_cleanly(stream, tmp_path):
    path, topic = tmp_path / "r.jsonl", stream["kafka.output_topic"]
    path.write_text('{"review_id": "1", "label": "positive", "score": 0.9, "text": "-", "review": {"text": "Good"}}\n')
    tail = start(stream, "tail", "--from", "earliest")
    produce = start(stream, "produce", "--input", str(path), "--topic", topic, "--rate", "50", "--loop", "--json")
    assert "positive" in tail.stdout.readline()
    for process, number in ((tail, signal.SIGINT), (produce, signal.SIGTERM)):
        process.send_signal(number)
    finish(tail)
    summary = json.loads(finish(produce)[0])
    assert summary["produced"] == len(content(stream, topic)) > 0
    assert summary["unacknowledged"] == 0


def test_bad_rows_stop_or_are_skipped_and_raw_sends_them(stream, tool, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"review_id": "1", "text": "a"}\nno json\n{"review_id": "2", "text": "b"}\n')
    _, errors = finish(start(stream, "produce", "--input", str(path)), code=2)
    assert f"{path}:2: invalid JSON" in errors and "1 produced" in errors
    summary = tool("produce", "--input", str(path), "--skip-bad-rows")
    assert (summary["produced"], summary["skipped"]) == (2, 1)
    assert tool("produce", "--input", str(path), "--raw", "--count", "2")["produced"] == 2
    assert [r.key for r in content(stream, stream["kafka.input_topic"]) if r.value == b"no json"] == [None]


# Mistakes ---------------------------------------------------------------------------------------------------------


def test_every_mistake_is_one_line_and_exit_code_2(stream, tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text('{"review_id": "1", "text": "a"}\n')
    nowhere = {**stream, "kafka.bootstrap_servers": "127.0.0.1:1", "kafka.startup_timeout": 1}
    gone = {**stream, "kafka.dead_letter_topic": "gone"}
    started = [
        (start(nowhere, "topics", "create"), "no Kafka broker answered at 127.0.0.1:1"),
        (start(stream, "produce", "--input", str(path), "--topic", "gone"), "topic 'gone' does not exist"),
        (start(stream, "tail", "--topic", "gone"), "topic 'gone' does not exist"),
        (start(gone, "dead-letters", "list"), "topic 'gone' does not exist"),
        (start(stream, "offsets", "show", "--no-such=1"), "no such setting: --no-such"),
    ]
    for process, message in started:
        output, errors = finish(process, code=2)
        assert errors.startswith("review-worker: ") and errors.count("\n") == 1, errors
        assert message in errors and not output


# Offsets ----------------------------------------------------------------------------------------------------------


def test_a_group_goes_back_to_a_time_and_past_a_range_but_not_while_it_runs(stream, tool):
    kafka = connection(stream)
    topic, group = kafka.input_topics[0], kafka.group_id
    for number in range(5):  # each flushed, so that times differ
        put(stream, topic, [(partition, None, str(number).encode(), ()) for partition in range(4)])
    with Admin(kafka) as admin:
        admin.commit(group, {TopicPartition(topic, partition): 4 for partition in range(4)})
    records = content(stream, topic)
    moment = records[2].timestamp  # of the third record of partition 0
    expected = [
        sum(record.partition == number and record.timestamp < moment for record in records) for number in range(4)
    ]
    assert expected[0] <= 2
    when = datetime.fromtimestamp(moment / 1000, UTC).isoformat()

    def positions() -> list[int]:
        return [row["committed"] for row in tool("offsets", "show")["partitions"]]

    dry = tool("offsets", "set", "--to", when, "--dry-run")["partitions"]
    assert [row["old"] for row in dry] == [4] * 4 and [row["new"] for row in dry] == expected
    assert positions() == [4] * 4
    tool("offsets", "set", "--to", when)
    assert positions() == expected
    tool("offsets", "set", "--to", "5", "--partition", "2")
    found = tool("offsets", "show")
    assert [row["committed"] for row in found["partitions"]] == [*expected[:2], 5, expected[3]]
    assert found["lag"] == sum(5 - row["committed"] for row in found["partitions"]) and not found["active"]
    with pytest.raises(ConfigurationError, match=f"--to 6: out of range, {topic}-2 holds 0 to 5"):
        tool("offsets", "set", "--to", "6", "--partition", "2")

    consumer = KafkaConsumer(topic, bootstrap_servers=kafka.bootstrap_servers, group_id=group, enable_auto_commit=False)
    try:
        deadline = time.monotonic() + 30
        while not consumer.assignment():
            assert time.monotonic() < deadline
            consumer.poll(timeout_ms=100)
        _, errors = finish(start(stream, "offsets", "set", "--to", "earliest"), code=2)
        assert f"group '{group}' is running: stop its workers first" in errors and errors.count("\n") == 1
        assert tool("offsets", "show")["active"]
    finally:
        consumer.close(timeout_ms=5000)
    words, _ = finish(start(stream, "offsets", "set", "--to", "latest"))
    assert f"group {group}: set" in words
    assert positions() == [5] * 4


def test_several_input_topics_are_moved_together_or_one_by_one(stream, tool, topics):
    first, second = stream["kafka.input_topic"], topics("more", partitions=2)
    stream["kafka.input_topic"] = json.dumps([first, second])
    assert len(tool("offsets", "set", "--to", "latest")["partitions"]) == 6
    rows = tool("offsets", "set", "--to", "earliest", "--topic", second, "--partition", "1")["partitions"]
    assert rows == [{"topic": second, "partition": 1, "old": 0, "new": 0}]
