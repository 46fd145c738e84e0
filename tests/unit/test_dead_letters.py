"""What the worker writes for a rejected record: the original byte for byte, and what of it when it does not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import RejectReason, replay_headers, unwrap
from schemas.headers import Headers
from tests.fakes.works import MODEL, headers, keys, make_work
from worker import __version__
from worker.dead_letters import DeadLetterWriter
from worker.sizes import batch_bytes
from worker.transport.interface import Outgoing, TopicInfo
from worker.work import Rejection, Work

REJECTION = Rejection(RejectReason.INVALID_TEXT, "decode", "text: must not be blank")
NOW = 1_700_000_100.25


def write(work: Work, limit: int = 2**20, partitions: int = 12) -> Outgoing:
    return DeadLetterWriter("dead", TopicInfo(partitions, limit, "delete"), "w-1").write(work, REJECTION, NOW)


def size(letter: Outgoing) -> int:
    return batch_bytes(letter.key, letter.value, letter.headers)


@given(keys, keys, headers("review-worker-attempt", "review-worker-header-count"))
def test_the_original_is_all_there_however_often_it_is_replayed(
    key: bytes | None, value: bytes | None, own: Headers
) -> None:
    carried = own
    for attempt in (1, 2, 3):
        letter = write(make_work(value, key, carried))
        restored, info = unwrap(letter.headers)
        assert (letter.key, letter.value, restored, info.attempt) == (key, value, own, attempt)
        carried = replay_headers(key, value, restored, info.attempt)


def test_it_says_what_happened_where_and_when() -> None:
    work = make_work(topic="re-views", partition=14, offset=7)
    letter = write(work)
    info = unwrap(letter.headers)[1]
    assert (letter.topic, letter.partition, letter.token) == ("dead", 14 % 12, work)
    assert (info.reason, info.stage, info.error) == (REJECTION.reason, REJECTION.stage, REJECTION.error)
    assert (info.source, info.record_timestamp) == ("re-views-14-7", work.record.timestamp)
    assert (info.failed_at.timestamp(), info.worker, info.worker_version, info.model) == (NOW, "w-1", __version__, "")
    work.model = MODEL
    assert unwrap(write(work).headers)[1].model == "fake@v0001"


@pytest.mark.parametrize("value", [b"v" * 10, b"v" * 5000])
@pytest.mark.parametrize("own", [(), (("own", b"h" * 200), ("own", None))])
def test_at_the_limit_it_goes_whole_and_one_byte_over_without_the_value(value: bytes, own: Headers) -> None:
    work = make_work(value, headers=own)
    whole = size(write(work))
    for limit in (whole + 1, whole):
        letter = write(work, limit)
        assert letter.value == value
        assert not unwrap(letter.headers)[1].value_omitted
    letter = write(work, whole - 1)
    info = unwrap(letter.headers)[1]
    assert (letter.value, info.value_omitted, info.source) == (None, True, "reviews-3-42")


@given(st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 4000), st.integers(700, 6000))
def test_it_always_fits_and_says_whether_something_is_missing(key: int, value: int, header: int, limit: int) -> None:
    own: Headers = (("own", b"h" * header),)
    work = make_work(b"v" * value, b"k" * key, own)
    letter = write(work, limit)
    restored, info = unwrap(letter.headers)
    assert size(letter) <= limit
    assert info.value_omitted == (size(write(work)) > limit)
    kept = (letter.value is not None, restored == own, letter.key is not None)
    assert kept in [(True, True, True), (False, True, True), (False, False, True), (False, False, False)]
    assert info.value_omitted == (kept != (True, True, True))


@pytest.mark.parametrize(
    ("key", "value", "header", "kept"),
    [(9, 9, 9, "key value headers"), (9, 5000, 9, "key headers"), (9, 5000, 5000, "key"), (5000, 9, 9, "")],
)
def test_the_largest_goes_first(key: int, value: int, header: int, kept: str) -> None:
    letter = write(make_work(b"v" * value, b"k" * key, (("own", b"h" * header),)), limit=1000)
    restored = unwrap(letter.headers)[0]
    assert kept == " ".join(filter(None, [letter.key and "key", letter.value and "value", restored and "headers"]))


def test_a_replayed_record_too_large_keeps_its_own_headers_and_count() -> None:
    value, own = b"v" * 5000, (("own", b"1"),)
    letter = write(make_work(value, headers=replay_headers(b"k", value, own, 2)), limit=1000)
    restored, info = unwrap(letter.headers)
    assert letter.value is None and info.value_omitted
    assert (restored, info.attempt) == (own, 3)
