"""How often, and for how long, everything is read again before the worker gives up; when commits count as failing."""

from __future__ import annotations

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest

from worker import intake
from worker.configuration import load_settings
from worker.holdings import Holdings
from worker.intake import REWINDS_WITHOUT_PROGRESS, Intake
from worker.transport.interface import CommitRefused, Offsets, TopicPartition, TransportFault


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(intake, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@pytest.fixture
def accounting() -> SimpleNamespace:
    return SimpleNamespace(acknowledged=0.0, rewound=lambda: None)


@pytest.fixture
def intake_(accounting: Any) -> Intake:
    transport: Any = SimpleNamespace(recover=dict)
    settings = load_settings(None, [], delivery="exactly_once", kafka={"outage_deadline": 180.0})
    return Intake(settings, transport, Holdings(), accounting, 1000.0)


def test_what_is_refused_at_once_over_and_over_ends_the_worker(clock: SimpleNamespace, intake_: Intake) -> None:
    for _ in range(REWINDS_WITHOUT_PROGRESS):
        intake_.read_again("too large")
        clock.now += 0.1
    with pytest.raises(TransportFault, match="too large"):
        intake_.read_again("too large")


def test_an_outage_may_last_as_long_as_its_deadline(clock: SimpleNamespace, intake_: Intake) -> None:
    for _ in range(13):
        intake_.read_again("timed out")
        clock.now += 15.0  # the client's patience with a record
    with pytest.raises(TransportFault, match="14 times in 195 s"):
        intake_.read_again("timed out")


def test_progress_begins_the_count_anew(clock: SimpleNamespace, intake_: Intake, accounting: SimpleNamespace) -> None:
    for _ in range(20):
        intake_.read_again("too large")
        accounting.acknowledged += 1
        clock.now += 20.0


def test_commits_fail_from_the_first_that_did_until_one_succeeds(clock: SimpleNamespace, accounting: Any) -> None:
    answers: list[Future[None]] = []

    def commit(offsets: Offsets) -> Future[None]:
        answers.append(Future())
        return answers[-1]

    partition, holdings = TopicPartition("t", 0), Holdings()
    holdings.assigned({partition: 0})
    accounting.commit_ended = lambda offsets, error: None
    positions: Offsets = {}
    transport: Any = SimpleNamespace(commit=commit, positions=lambda: positions)
    intake = Intake(load_settings(None, [], commit_interval=0.1), transport, holdings, accounting, 1000.0)

    def commit_after(seconds: float) -> float | None:
        clock.now += seconds
        intake.commit()
        return intake.commits_fail_since

    positions = {partition: 1}
    assert commit_after(0) is None and len(answers) == 1
    assert commit_after(0.9) is None, "slow is not failing"
    assert commit_after(0.2) == 1000.0, "unanswered is"
    answers[0].set_result(None)
    assert commit_after(0) is None
    positions = {partition: 2}
    assert commit_after(0.1) is None and len(answers) == 2
    answers[1].set_exception(CommitRefused("not now"))
    assert commit_after(0.1) == clock.now - 0.1
    answers[2].set_exception(CommitRefused("not now"))
    assert commit_after(5) == clock.now - 5.1, "the first counts"
    holdings.lost([partition])
    answers[3].set_exception(CommitRefused("not ours"))
    assert commit_after(0.1) is None, "there is nothing to commit any more"
