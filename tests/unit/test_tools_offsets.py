"""What `offsets set --to` stands for, and what `offsets show` makes of what it finds."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from worker.configuration import ConfigurationError
from worker.tools.offsets import lag, resolve, shown
from worker.transport.interface import Offsets, TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


class Lookup:
    """Partitions hold offsets 10 to 20; the record at offset n is of n seconds, but B has none later than 12."""

    def beginning(self, partitions: Collection[TopicPartition]) -> Offsets:
        return dict.fromkeys(partitions, 10)

    def end(self, partitions: Collection[TopicPartition]) -> Offsets:
        return dict.fromkeys(partitions, 20)

    def at_time(self, partitions: Collection[TopicPartition], timestamp: int) -> Offsets:
        return {tp: timestamp // 1000 for tp in partitions if not (tp == B and timestamp > 12_000)}


def test_words_and_times():
    assert resolve("earliest", [A, B], Lookup()) == {A: 10, B: 10}
    assert resolve("latest", [A, B], Lookup()) == {A: 20, B: 20}
    assert resolve("1970-01-01T00:00:15Z", [A, B], Lookup()) == {A: 15, B: 20}
    assert resolve("1970-01-01T02:00:12+02:00", [A, B], Lookup()) == {A: 12, B: 12}


@pytest.mark.parametrize("offset", [10, 15, 20])
def test_an_offset_that_the_partition_holds(offset):
    assert resolve(str(offset), [A], Lookup()) == {A: offset}


@pytest.mark.parametrize(
    ("to", "partitions", "message"),
    [
        ("9", [A], "out of range, t-0 holds 10 to 20"),
        ("21", [A], "out of range"),
        ("-1", [A], "out of range"),
        ("15", [A, B], "say --topic and --partition"),
        ("yesterday", [A], "not a time such as"),
        ("2026-05-01T12:00:00", [A], "say which time zone"),
    ],
)
def test_what_makes_no_sense_is_one_line(to, partitions, message):
    with pytest.raises(ConfigurationError, match=message):
        resolve(to, partitions, Lookup())


@pytest.mark.parametrize(
    ("committed", "expected"), [(None, 10), (5, 10), (10, 10), (15, 5), (20, 0), (25, 0)]
)  # between 10 and 20
def test_lag(committed, expected):
    assert lag(committed, 10, 20) == expected


def test_an_offset_that_the_topic_does_not_hold_is_marked():
    assert [shown(at, 10, 20) for at in (None, 9, 10, 20, 21)] == [
        "none", "9 (out of range)", "10", "20", "21 (out of range)",
    ]  # fmt: skip
