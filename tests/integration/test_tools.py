"""The tools around a worker, on real Kafka: topics, produce, tail, dead letters, offsets."""

from __future__ import annotations

import json
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from kafka import KafkaConsumer

from schemas import headers
from schemas.dead_letter import ATTEMPT, RejectReason, replay_headers
from worker.cli import app
from worker.configuration import ConfigurationError, load_settings
from worker.dead_letters import DeadLetterWriter
from worker.settings import KafkaSettings
from worker.tools.process import COMMAND
from worker.tools.replay import KEPT_MS
from worker.tools.topics import create
from worker.transport.admin import Admin, NewTopic
from worker.transport.interface import Record, TopicInfo, TopicPartition
from worker.transport.reader import read
from worker.transport.writer import TopicWriter
from worker.work import Rejection, Work

Stream = dict[str, Any]
Tool = Callable[..., dict[str, Any]]

AWKWARD: headers.Headers = (("trace", b"1"), ("trace", None), ("", b""), ("é", b"\xff\x00"), ("trace", b"2"))
DEADLINE = 60


def flags(stream: Stream) -> list[str]:
    return [f"--{name}={value}" for name, value in stream.items()]


def kafka_of(stream: Stream) -> KafkaSettings:
    return load_settings(None, flags(stream)).kafka


def start(stream: Stream, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *command, *flags(stream)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What it printed, once it has ended with this exit code."""
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return output, errors


@pytest.fixture
def tool(stream: Stream, capsys: pytest.CaptureFixture[str]) -> Tool:
    """Runs a command in this process and returns its last line, which is JSON."""

    def call(*command: str) -> dict[str, Any]:
        capsys.readouterr()
        assert not app([*command, "--json", *flags(stream)], standalone_mode=False)
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return call


def send(
    stream: Stream, topic: str, records: Sequence[tuple[int, bytes | None, bytes | None, headers.Headers]]
) -> None:
    with TopicWriter(kafka_of(stream)) as writer:
        for partition, key, value, own in records:
            writer.send(topic, key, value, own, partition=partition)
        assert writer.flush(30)


def content(stream: Stream, topic: str) -> list[Record]:
    """All that the topic holds, by partition and offset."""
    kafka = kafka_of(stream)
    with Admin(kafka) as admin:
        partitions = admin.partitions(topic)
        beginning, end = admin.beginning(partitions), admin.end(partitions)
    return sorted((record for batch in read(kafka, beginning, end) for record in batch), key=lambda r: r[1:3])


def reject(
    stream: Stream,
    records: Sequence[Record],
    reason: RejectReason = RejectReason.INVALID_JSON,
    now: float | None = None,
    limit: int = 1_000_000,
) -> None:
    """Writes the records' dead letters, as a worker would."""
    kafka = kafka_of(stream)
    letters = DeadLetterWriter(kafka.dead_letter_topic, TopicInfo(4, limit, "delete"), "worker-1")
    outgoing = []
    for record in records:
        work = Work(record, TopicPartition(record.topic, record.partition), 0, 0, 0.0)
        letter = letters.write(work, Rejection(reason, "decode", "no good"), time.time() if now is None else now)
        outgoing.append((letter.partition, letter.key, letter.value, letter.headers))
    send(stream, kafka.dead_letter_topic, outgoing)


def originals(stream: Stream, count: int = 10, offset: int = 0) -> list[Record]:
    """Records of the input topic with whatever a producer may send."""
    keys, values = [b"key", None, b"", b"\xff"], [b"no json", b"", None, b"\xff\xfe", b"x" * 5000]
    topic = stream["kafka.input_topic"]
    return [
        Record(topic, number % 4, offset + number // 4, 1_700_000_000_000, keys[number % 4], values[number % 5],
               AWKWARD[: number % 6])
        for number in range(count)
    ]  # fmt: skip


def replayed(stream: Stream, topic: str) -> list[tuple[int, bytes | None, bytes | None, headers.Headers]]:
    """Partition, key, value and headers of what replay wrote, without the header that it adds last."""
    records = content(stream, topic)
    assert all(record.headers[-1][0] == ATTEMPT for record in records)
    return [(record.partition, record.key, record.value, record.headers[:-1]) for record in records]


def as_sent(records: Sequence[Record], partitions: int = 4) -> list[tuple[int, bytes | None, bytes | None, Any]]:
    return sorted(((r.partition % partitions, r.key, r.value, r.headers) for r in records), key=lambda one: one[0])


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
    with Admin(kafka := kafka_of(stream)) as admin:
        limit = admin.topic(kafka.input_topics[0]).max_message_bytes + 64 * 1024
        dead, brokers = admin.topic(kafka.dead_letter_topic), admin.brokers()
        assert dead == TopicInfo(12, limit, "delete", 2 if brokers > 2 else 1, min(3, brokers), 30 * 86_400_000)
        before = admin.topic(output)
    assert [topic["created"] for topic in made] == [True, False, True]
    send(stream, f"reviews-{mine}", [(11, b"key", b"value", ())])  # it can be used at once

    words, _ = finish(start(stream, "topics", "create"))
    assert words.count("exists") == 3
    assert "differs, and stays as it is: partitions is 3, 12 would be sane" in words
    assert "retention_ms is 1000, 604800000 would be sane" in words
    with Admin(kafka) as admin:
        assert admin.topic(output) == before


def test_topics_are_known_to_every_broker_once_they_are_made(local_kafka_factory):
    kafka = KafkaSettings(bootstrap_servers=local_kafka_factory(nodes=3).bootstrap_servers)
    with Admin(kafka) as admin:
        assert [outcome.differences for outcome in create(admin, kafka)] == [{}, {}, {}]
        found = [admin.topic(kafka.output_topic) for _ in range(10)]  # each time of a broker at random
    assert [info and (info.replication_factor, info.min_insync_replicas) for info in found] == [(3, 2)] * 10


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


# Dead letters -----------------------------------------------------------------------------------------------------


def test_letters_are_listed_and_shown_whole(stream, tool):
    reject(stream, originals(stream, 6), now=1000.0)
    reject(stream, originals(stream, 1, offset=100), RejectReason.NOT_UTF8, now=2000.0)
    listed = tool("dead-letters", "list", "--limit", "3")
    assert listed["reasons"] == {"invalid_json": 6, "not_utf8": 1}
    assert listed["total"] == listed["waiting"] == 7 and len(listed["letters"]) == 3
    latest = listed["letters"][0]
    assert latest["source"] == f"{stream['kafka.input_topic']}-0-100"
    assert (latest["reason"], latest["stage"], latest["attempt"]) == ("not_utf8", "decode", 1)
    at = datetime.fromtimestamp(2000.0, UTC).isoformat()
    assert tool("dead-letters", "list", "--from", at)["total"] == 1
    assert tool("dead-letters", "list", "--to-time", at)["total"] == 6

    by_place = tool("dead-letters", "show", latest["letter"])["letters"]
    assert by_place == tool("dead-letters", "show", latest["source"])["letters"]
    assert by_place[0]["key"] == {"text": "key"} and by_place[0]["value"] == {"text": "no json"}
    source = f"{stream['kafka.input_topic']}-1-1"  # number 5: every awkward header, on partition 1
    [shown] = tool("dead-letters", "show", source)["letters"]
    assert shown["headers"] == [
        ["trace", {"text": "1"}], ["trace", None], ["", {"text": ""}], ["é", {"hex": "ff00"}], ["trace", {"text": "2"}],
    ]  # fmt: skip

    with pytest.raises(ConfigurationError, match="no letter 0-99"):
        tool("dead-letters", "show", "0-99")
    words, _ = finish(start(stream, "dead-letters", "list"))
    assert f"7 dead letters in {stream['kafka.dead_letter_topic']}, 7 of them not replayed yet" in words
    words, _ = finish(start(stream, "dead-letters", "show", source))
    assert "hex ff00" in words and "null" in words and "no good" in words


def test_replay_restores_every_byte_once(stream, tool):
    records = originals(stream, 23)
    reject(stream, records)
    topic = stream["kafka.input_topic"]

    dry = tool("dead-letters", "replay", "--dry-run")
    assert (dry["replayed"], dry["topics"], dry["dry_run"]) == (23, {topic: 23}, True)
    assert content(stream, topic) == []
    assert tool("dead-letters", "replay", "--limit", "5")["replayed"] == 5
    assert len(content(stream, topic)) == 5
    assert tool("dead-letters", "list")["waiting"] == 18
    output, errors = finish(start(stream, "dead-letters", "replay", "--json"))  # goes on where the first ended
    assert json.loads(output)["replayed"] == 18 and f"replayed 18 to {topic}" in errors
    assert tool("dead-letters", "replay")["replayed"] == 0
    assert replayed(stream, topic) == as_sent(records)
    assert tool("dead-letters", "list")["waiting"] == 0


def test_each_letter_goes_once_whatever_was_chosen_before(stream, tool, topics):
    mixed = list(zip(originals(stream, 12), [RejectReason.NOT_UTF8, RejectReason.MODEL_FAILURE] * 6, strict=True))
    for record, reason in mixed:
        reject(stream, [record], reason, now=1000.0)
    late = originals(stream, 2, offset=50)
    reject(stream, late, RejectReason.MODEL_FAILURE, now=3000.0)
    other = topics("elsewhere", partitions=3)

    found = tool("dead-letters", "replay", "--reason", "model_failure", "--to", other, "--to-time", "1970-01-01T00:30Z")
    assert (found["replayed"], found["not_chosen"]) == (6, 8)
    chosen = [record for record, reason in mixed if reason is RejectReason.MODEL_FAILURE]
    assert replayed(stream, other) == as_sent(chosen, partitions=3)
    assert tool("dead-letters", "replay")["replayed"] == 8
    rest = [record for record, reason in mixed if reason is RejectReason.NOT_UTF8]
    assert replayed(stream, stream["kafka.input_topic"]) == as_sent([*rest, *late])


def test_what_must_not_be_replayed_is_refused_by_name(stream, tool):
    topic = stream["kafka.input_topic"]
    tired = Record(topic, 1, 7, 0, b"k", b"tired", replay_headers(b"k", b"tired", AWKWARD, 3))
    fit = Record(topic, 1, 8, 0, b"k", b"fit", replay_headers(b"k", b"fit", AWKWARD, 2))
    reject(stream, [tired, fit])
    reject(stream, [Record(topic, 2, 9, 0, b"k", b"x" * 2000, ())], limit=1000)
    send(stream, stream["kafka.dead_letter_topic"], [(3, b"k", b"no letter", ())])

    output, errors = finish(start(stream, "dead-letters", "replay", "--json"))
    found = json.loads(output)
    assert found["replayed"] == 1
    assert found["refused"] == {"attempts": 1, "value_omitted": 1, "too_large": 0, "not_a_dead_letter": 1}
    assert f"refused 1-0 from {topic}-1-7: it failed more than 3 times" in errors
    assert f"refused 2-0 from {topic}-2-9: it did not fit whole" in errors
    assert replayed(stream, topic) == [(1, b"k", b"fit", AWKWARD)]
    found = tool("dead-letters", "replay", "--force")
    assert found["replayed"] == 1 and not any(found["refused"].values())
    assert replayed(stream, topic)[-1] == (1, b"k", b"tired", AWKWARD)


def test_a_letter_from_a_topic_that_is_gone_is_named_and_waits(stream, tool):
    gone = f"gone-{uuid.uuid4().hex[:8]}"
    reject(stream, [Record(gone, 0, 1, 0, None, b"value", ())])
    with pytest.raises(ConfigurationError, match=f"dead letter 0-0 is from topic '{gone}', which is gone: give --to"):
        tool("dead-letters", "replay")
    assert tool("dead-letters", "replay", "--to", stream["kafka.input_topic"])["replayed"] == 1


def test_what_was_replayed_is_known_for_longer_than_brokers_keep_offsets(local_kafka_factory):
    servers = local_kafka_factory(properties={"offsets.retention.check.interval.ms": "100"}).bootstrap_servers
    short, long = TopicPartition("t", 0), TopicPartition("t", 1)
    with Admin(KafkaSettings(bootstrap_servers=servers)) as admin:
        admin.create_topics([NewTopic("t", 2, 1)])
        admin.commit("g", {long: 3}, {long: "note"}, keep_ms=KEPT_MS)
        admin.commit("g", {short: 3}, keep_ms=1)
        deadline = time.monotonic() + 30
        while short in admin.committed("g"):  # the broker does what the commit asks for
            assert time.monotonic() < deadline
        assert admin.notes("g") == {long: "note"}


# Offsets ----------------------------------------------------------------------------------------------------------


def test_a_group_goes_back_to_a_time_and_past_a_range_but_not_while_it_runs(stream, tool):
    kafka = kafka_of(stream)
    topic, group = kafka.input_topics[0], kafka.group_id
    for number in range(5):  # each flushed, so that times differ
        send(stream, topic, [(partition, None, str(number).encode(), ()) for partition in range(4)])
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
