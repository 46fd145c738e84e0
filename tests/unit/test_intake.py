"""How often, and for how long, everything is read again before the worker gives up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from worker import intake
from worker.configuration import load_settings
from worker.holdings import Holdings
from worker.intake import REWINDS_WITHOUT_PROGRESS, Intake
from worker.transport.interface import TransportFault


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
