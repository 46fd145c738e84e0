"""Which dead letters are chosen, refused and still waiting: none is forgotten; none repeated while a note has room."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import DeadLetterInfo, RejectReason, wrap
from worker.tools.letters import NOTE_CHARACTERS, Choice, Letter, Progress, Refusal, refusal
from worker.transport.interface import Record

FAILED_AT = datetime(2026, 5, 1, 12, tzinfo=UTC)


def letter(value: bytes | None = b"{", *, limit: int = 10_000, **changes: object) -> Letter:
    fields = {
        "reason": RejectReason.INVALID_JSON, "stage": "decode", "error": "bad", "source": "my-reviews-3-17",
        "record_timestamp": 1, "failed_at": FAILED_AT, "worker": "w", "worker_version": "1", "model": "", "attempt": 1,
    }  # fmt: skip
    info = DeadLetterInfo(**{**fields, **changes})
    own = (("trace", b"\xff"), ("trace", None))
    return Letter.read(Record("dead", 2, 5, 0, b"k", value, wrap(b"k", value, own, info)))


def test_a_letter_knows_where_it_is_and_where_it_came_from():
    read = letter()
    assert read.name == "2-5"
    assert read.source == ("my-reviews", 3, 17)
    assert read.own == (("trace", b"\xff"), ("trace", None))


@pytest.mark.parametrize(
    "headers",
    [(), (("review-worker-header-count", b"9"),), (("x", b"\xff"), ("review-worker-header-count", b"2"))],
)
def test_what_is_no_letter_is_told_apart(headers):
    with pytest.raises(ValueError):
        Letter.read(Record("dead", 0, 0, 0, None, b"", headers))


def test_a_choice_is_by_reason_and_half_open_in_time():
    one = letter()
    assert one in Choice()
    assert one in Choice(RejectReason.INVALID_JSON)
    assert one not in Choice(RejectReason.NOT_UTF8)
    assert one in Choice(since=FAILED_AT, until=FAILED_AT + timedelta(seconds=1))
    assert one not in Choice(since=FAILED_AT + timedelta(microseconds=1))
    assert one not in Choice(until=FAILED_AT)


def test_refusals():
    assert refusal(letter(attempt=3), 10_000, force=False) is None
    assert refusal(letter(attempt=4), 10_000, force=False) is Refusal.ATTEMPTS
    assert refusal(letter(attempt=4), 10_000, force=True) is None
    assert refusal(letter(None, value_omitted=True), 10_000, force=True) is Refusal.VALUE_OMITTED
    assert refusal(letter(None), 10_000, force=False) is None  # a null value is a value that can be sent again
    assert refusal(letter(b"x" * 10_000), 10_000, force=True) is Refusal.TOO_LARGE


@given(st.lists(st.tuples(st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60)), max_size=6))
def test_over_many_runs_each_letter_is_settled_once_and_none_is_forgotten(runs):
    """Each run settles what it chose among the letters below where it stopped; in between only the commit is kept."""
    offset, note, settled, beginning = 0, "", set[int](), 0
    exists = {at for at in range(61) if at % 7}  # every seventh offset is a transaction marker
    for chosen, stop, removed in runs:
        progress = Progress(offset, note)
        beginning = max(beginning, min(removed, stop))
        progress.forget_below(beginning)
        for at in sorted(at for at in exists if max(beginning, progress.to_commit()[0]) <= at < stop):
            assert progress.waits(at) == (at not in settled)
            if progress.waits(at):
                progress.look(at)
                if at in chosen:
                    progress.settle(at)
                    settled.add(at)
        progress.reach(stop)
        offset, note = progress.to_commit()
        waiting = {at for at in exists if at >= beginning and Progress(offset, note).waits(at)}
        assert waiting == {at for at in exists if at >= beginning and at not in settled}
        assert min(waiting, default=stop) >= min(offset, stop)


def test_progress_without_room_for_all_repeats_letters_and_loses_none():
    progress, chosen = Progress(), random.Random(1)
    settled = set()
    for at in range(200_000):
        progress.look(at)
        if chosen.random() < 0.5:
            progress.settle(at)
            settled.add(at)
    offset, note = progress.to_commit()
    assert len(note) <= NOTE_CHARACTERS
    again = Progress(offset, note)
    assert again.seen > 10_000  # so much does fit
    assert all(again.waits(at) for at in range(200_000) if at not in settled)
    assert not any(again.waits(at) for at in settled if at < again.seen)


@pytest.mark.parametrize("note", ["made by someone else", "12:", "x:y", ":", "7:zzzz", "é:é"])
def test_a_note_of_someone_else_forgets_no_letter(note):
    progress = Progress(5, note)
    assert all(progress.waits(at) for at in range(5, 20))


def test_retention_takes_waiting_letters_away():
    progress = Progress()
    for at in range(10):
        progress.look(at)
    progress.forget_below(8)
    assert progress.to_commit()[0] == 8
