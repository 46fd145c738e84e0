"""Outages and a backlog in their short form: what must hold whatever the speed. Each comes in a mode or two; the long
form, in every mode, is `outages.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.conftest import Job
from tests.chaos.outages import SETTINGS, Length, Result, away, behind, deleted, play, refused
from tests.chaos.stage import Stage, Stream
from tests.chaos.verdict import Mode

SHORT = Length(outage=6, missing_topic=4, steady=1, drain=5, backlog=8000, behind=200_000)


def an_output_that_refuses_everything_and_is_deleted(folder: Path, checkpoint: Path) -> Result:
    mode = Mode("exactly_once", "librdkafka")
    with Stage(mode, folder, checkpoint, print, 3, **SETTINGS) as stage, Stream(stage) as stream:
        first, second = refused(stage, stream, SHORT), deleted(stage, stream, SHORT)
    second.wrong += first.wrong
    return second


def a_broker_that_goes_away_and_an_output_that_is_deleted(folder: Path, checkpoint: Path) -> Result:
    mode = Mode("exactly_once", "kafka-python")
    with Stage(mode, folder, checkpoint, print, **SETTINGS) as stage, Stream(stage) as stream:
        first = away(stage, stream, SHORT)
        stage.stop()
        stage.mode = Mode("at_least_once", "kafka-python")
        second = deleted(stage, stream, SHORT)
    second.wrong += first.wrong
    return second


def a_long_backlog(folder: Path, checkpoint: Path) -> Result:
    return play(behind.__name__, Mode("at_least_once", "kafka-python"), SHORT, folder, checkpoint, print)


@pytest.mark.parametrize(
    "job",
    [
        an_output_that_refuses_everything_and_is_deleted,
        a_broker_that_goes_away_and_an_output_that_is_deleted,
        a_long_backlog,
    ],
)
def test_it_is_lived_through(job: Job, outcome: Callable[[Job], Result]) -> None:
    assert outcome(job).wrong == []
