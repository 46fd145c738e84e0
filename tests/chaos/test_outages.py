"""Outages and a backlog in their short form: what must hold whatever the speed. The long one is `outages.py`."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.outages import SETTINGS, Length, Result, away, behind, deleted, play, refused
from tests.chaos.run import Mode
from tests.chaos.stage import Stage, Stream

LIBRDKAFKA, KAFKA_PYTHON = (Mode("at_least_once", client) for client in ("librdkafka", "kafka-python"))
SHORT = Length(outage=6, missing_topic=4, steady=1, drain=5, backlog=8000, behind=200_000)


def check(*results: Result) -> None:
    for result in results:
        print(result.to_json())
    assert [problem for result in results for problem in result.wrong] == []


def test_an_output_that_refuses_everything(checkpoint: Path, tmp_path: Path) -> None:
    check(play(refused.__name__, LIBRDKAFKA, SHORT, tmp_path, checkpoint, print))


def test_a_broker_that_goes_away_and_an_output_that_is_deleted(checkpoint: Path, tmp_path: Path) -> None:
    with Stage(KAFKA_PYTHON, tmp_path, checkpoint, print, **SETTINGS) as stage, Stream(stage) as stream:
        check(away(stage, stream, SHORT), deleted(stage, stream, SHORT))


def test_a_long_backlog(checkpoint: Path, tmp_path: Path) -> None:
    check(play(behind.__name__, KAFKA_PYTHON, SHORT, tmp_path, checkpoint, print))
