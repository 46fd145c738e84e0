"""Replaying when deliveries fail: what was not acknowledged still waits. Reader, writer and cluster are fakes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from schemas.dead_letter import DeadLetterInfo, RejectReason, wrap
from worker.settings import KafkaSettings
from worker.tools.connection import Interrupt
from worker.tools.letters import Choice
from worker.tools.replay import Replay
from worker.transport.interface import DeliveryFailed, Offsets, Record, TopicInfo, TopicPartition, TransportFault

KAFKA = KafkaSettings(input_topic="in", dead_letter_topic="dead", group_id="g")
DEAD = TopicPartition("dead", 0)


def letter(offset: int) -> Record:
    info = DeadLetterInfo(
        reason=RejectReason.INVALID_JSON, stage="decode", error="bad", source=f"in-5-{offset}", record_timestamp=1,
        failed_at=datetime(2026, 5, 1, tzinfo=UTC), worker="w", worker_version="1", model="", attempt=1,
    )  # fmt: skip
    value = str(offset).encode()
    return Record("dead", 0, offset, 0, None, value, wrap(None, value, (), info))


class Cluster:
    """One partition of ten dead letters; deliveries go as `fate` says, which may also leave them unreported."""

    def __init__(self) -> None:
        self.size = 10
        self.commits: dict[TopicPartition, int] = {}
        self.kept_notes: Mapping[TopicPartition, str] = {}
        self.delivered: list[int] = []
        self.fate: Callable[[int], DeliveryFailed | str | None] = lambda number: None

    def topic(self, name: str) -> TopicInfo:
        return TopicInfo(4, 10_000, "delete")

    def partitions(self, topic: str) -> list[TopicPartition]:
        return [DEAD]

    def beginning(self, partitions: Collection[TopicPartition]) -> Offsets:
        return {DEAD: 0}

    def end(self, partitions: Collection[TopicPartition]) -> Offsets:
        return {DEAD: self.size}

    def committed(self, group: str) -> Offsets:
        assert group == "g.replay"
        return dict(self.commits)

    def notes(self, group: str) -> Mapping[TopicPartition, str]:
        return self.kept_notes

    def commit(
        self, group: str, offsets: dict[TopicPartition, int], notes: Mapping[TopicPartition, str], keep_ms: int
    ) -> None:
        assert group == "g.replay" and keep_ms > 365 * 86_400_000
        self.commits, self.kept_notes = offsets, notes

    def read(self, kafka: KafkaSettings, start: Offsets, end: Offsets, timeout: float) -> Iterator[list[Record]]:
        for offset in range(start[DEAD], end[DEAD]):
            yield [letter(offset)]

    def writer(self, kafka: KafkaSettings, on_delivery: Callable[..., None], timeout: float) -> Any:
        cluster = self

        class Writer:
            def __enter__(self) -> Writer:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def send(self, topic: str, key: Any, value: bytes, headers: Any, *, partition: int, token: Any) -> None:
                assert (topic, partition) == ("in", 1)  # 5 modulo 4
                fate = cluster.fate(int(value))
                if fate != "unreported":
                    on_delivery(token, fate)
                if fate is None:
                    cluster.delivered.append(int(value))

            def flush(self, timeout: float) -> bool:
                return True

        return Writer()


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr("worker.transport.reader.read", made.read)
    monkeypatch.setattr("worker.transport.writer.TopicWriter", made.writer)
    return made


def run(cluster: Cluster, limit: int | None = None, *, dry_run: bool = False) -> Replay:
    replay = Replay(cluster, KAFKA, Choice(), None, Console(quiet=True), force=False, dry_run=dry_run)
    try:
        replay.run(Interrupt(), limit)
    except TransportFault as error:
        assert "dead letter 0-4 was not delivered: no room" in str(error)
    return replay


def test_a_refused_letter_stops_the_run_and_the_next_begins_with_it(cluster):
    cluster.fate = lambda number: DeliveryFailed("no room") if number == 4 else None
    assert run(cluster).to_json()["replayed"] == 4
    assert cluster.commits == {DEAD: 4}
    cluster.fate = lambda number: None
    assert run(cluster).to_json()["replayed"] == 6
    assert cluster.delivered == list(range(10))
    assert cluster.commits == {DEAD: 10}


def test_what_was_never_reported_still_waits(cluster):
    cluster.fate = lambda number: "unreported" if number % 3 == 0 else None
    run(cluster)
    cluster.fate = lambda number: None
    run(cluster)
    assert sorted(cluster.delivered) == list(range(10))


def test_a_dry_run_writes_and_keeps_nothing(cluster):
    assert run(cluster, limit=3, dry_run=True).to_json()["replayed"] == 3
    assert not cluster.delivered and not cluster.commits


def test_a_limit_ends_a_run(cluster):
    assert [run(cluster, limit=4).to_json()["replayed"] for _ in range(4)] == [4, 4, 2, 0]
    assert cluster.delivered == list(range(10))


def test_the_progress_of_an_earlier_topic_of_the_name_does_not_count(cluster):
    run(cluster)
    cluster.size = 3  # deleted and made anew
    assert run(cluster).to_json()["replayed"] == 3
