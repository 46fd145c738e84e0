"""Outages and a backlog in their short form: what must hold whatever the speed. The long one is `outages.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.conftest import Job
from tests.chaos.outages import SETTINGS, Length, Result, away, behind, deleted, play, refused
from tests.chaos.stage import Stage, Stream
from tests.chaos.verdict import Mode

LIBRDKAFKA, KAFKA_PYTHON = (Mode("at_least_once", client) for client in ("librdkafka", "kafka-python"))
SHORT = Length(outage=6, missing_topic=4, steady=1, drain=5, backlog=8000, behind=200_000)


def an_output_that_refuses_everything(folder: Path, checkpoint: Path) -> Result:
    return play(refused.__name__, LIBRDKAFKA, SHORT, folder, checkpoint, print)


def a_broker_that_goes_away_and_an_output_that_is_deleted(folder: Path, checkpoint: Path) -> Result:
    with Stage(KAFKA_PYTHON, folder, checkpoint, print, **SETTINGS) as stage, Stream(stage) as stream:
        first, second = away(stage, stream, SHORT), deleted(stage, stream, SHORT)
    second.wrong += first.wrong
    return second


def a_long_backlog(folder: Path, checkpoint: Path) -> Result:
    return play(behind.__name__, KAFKA_PYTHON, SHORT, folder, checkpoint, print)


@pytest.mark.parametrize(
    "job", [an_output_that_refuses_everything, a_broker_that_goes_away_and_an_output_that_is_deleted, a_long_backlog]
)
def test_it_is_lived_through(job: Job, outcome: Callable[[Job], Result]) -> None:
    assert outcome(job).wrong == []
