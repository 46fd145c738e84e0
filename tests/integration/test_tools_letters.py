"""`dead-letters list|show|replay` on real Kafka: every byte comes back, once, and what must not be replayed is not."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from schemas import headers
from schemas.dead_letter import ATTEMPT, RejectReason, replay_headers
from tests.fakes.stream import Stream, connection
from tests.fakes.tools import content, finish, put, start
from worker.configuration import ConfigurationError
from worker.dead_letters import DeadLetterWriter
from worker.settings import KafkaSettings
from worker.tools.replay import KEPT_MS
from worker.transport.admin import Admin, NewTopic
from worker.transport.interface import Record, TopicInfo, TopicPartition
from worker.work import Rejection, Work

AWKWARD: headers.Headers = (("trace", b"1"), ("trace", None), ("", b""), ("é", b"\xff\x00"), ("trace", b"2"))


def reject(
    stream: Stream,
    records: Sequence[Record],
    reason: RejectReason = RejectReason.INVALID_JSON,
    now: float | None = None,
    limit: int = 1_000_000,
) -> None:
    """Writes the records' dead letters, as a worker would."""
    kafka = connection(stream)
    letters = DeadLetterWriter(kafka.dead_letter_topic, TopicInfo(4, limit, "delete"), "worker-1")
    outgoing = []
    for record in records:
        work = Work(record, TopicPartition(record.topic, record.partition), 0, 0, 0.0)
        letter = letters.write(work, Rejection(reason, "decode", "no good"), time.time() if now is None else now)
        outgoing.append((letter.partition, letter.key, letter.value, letter.headers))
    put(stream, kafka.dead_letter_topic, outgoing)


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
    put(stream, stream["kafka.dead_letter_topic"], [(3, b"k", b"no letter", ())])

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
