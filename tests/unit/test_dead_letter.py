"""Dead letters come back as what they were, however often they go round and whatever headers they carried."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from schemas.dead_letter import (
    ATTEMPT,
    HEADER_COUNT,
    DeadLetterInfo,
    RejectReason,
    next_attempt,
    replay_headers,
    unwrap,
    wrap,
)
from schemas.headers import Headers
from tests.fakes.works import headers, keys

OURS = ["review-worker-reason", "review-worker-value-omitted"]
FORGED = st.tuples(
    st.sampled_from([ATTEMPT, HEADER_COUNT, *OURS]),
    st.sampled_from(
        [None, b"", b"1", b"2", b"12", b"1;00000000", b"9;deadbeef", b"\xff;", "٣".encode(), "²;0".encode(), b"-1"]
    ),
)
any_headers = st.tuples(headers(ATTEMPT, HEADER_COUNT, *OURS), st.lists(FORGED, max_size=3)).map(
    lambda both: (*both[0], *both[1])
)


def information(attempt: int = 1, **changes: Any) -> DeadLetterInfo:
    fields: dict[str, Any] = dict(
        reason=RejectReason.INVALID_TEXT,
        stage="decode",
        error="text: must not be blank",
        source="re-views-3-42",
        record_timestamp=-1,
        failed_at=datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC),
        worker="w-1",
        worker_version="0.1.0",
        model="",
        attempt=attempt,
    )
    return DeadLetterInfo(**{**fields, **changes})


@given(keys, keys, any_headers)
@example(b"k", b"v", ((ATTEMPT, b"1;00000000"),))
@example(None, None, ((HEADER_COUNT, b"3"),))
@example(b"k", b"v", ((HEADER_COUNT, b"1"), (ATTEMPT, None)))
@example(b"k", b"v", ((ATTEMPT, "²;0".encode()),))
def test_three_rounds_give_back_the_record(key: bytes | None, value: bytes | None, own: Headers) -> None:
    carried = own
    for attempt in (1, 2, 3):
        assert next_attempt(key, value, carried) == attempt
        letter = wrap(key, value, carried, information(attempt))
        assert letter[: len(carried)] == carried, "the record's headers stay in front, untouched"
        restored, info = unwrap(letter)
        assert restored == own
        assert info == information(attempt)
        carried = replay_headers(key, value, restored, info.attempt)
        assert carried[:-1] == own


@given(keys, keys, any_headers, st.integers(1, 3))
def test_an_attempt_is_believed_only_of_the_record_it_was_made_for(
    key: bytes | None, value: bytes | None, own: Headers, attempt: int
) -> None:
    carried = replay_headers(key, value, own, attempt)
    assert next_attempt(key, value, carried) == attempt + 1
    for other in (
        (key, (value or b"") + b"x", carried),
        ((key or b"") + b"x", value, carried),
        (key, value, (("added", None), *carried)),
        (key, value, (*carried, ("added", None))),
        (key, value, (*own, ("another name", carried[-1][1]))),
        (key, value, (*own, (ATTEMPT, (carried[-1][1] or b"").replace(b";", b"0;")))),
    ):
        assert next_attempt(*other) == 1
        assert unwrap(wrap(*other, information()))[0] == other[2], "so it is the producer's own header"


@given(st.booleans(), st.sampled_from(RejectReason), st.text(st.characters(codec="utf-8")), st.integers(1, 10**9))
def test_our_information_survives_the_wire(omitted: bool, reason: RejectReason, error: str, attempt: int) -> None:
    info = information(attempt, value_omitted=omitted, reason=reason, error=error)
    assert unwrap(wrap(b"k", None, (), info))[1] == info
    names = [name for name, _ in info.to_headers()]
    assert ("review-worker-value-omitted" in names) == omitted
    assert all(name.startswith("review-worker-") and "_" not in name for name in names)


@given(any_headers)
def test_what_is_no_dead_letter_is_refused_with_value_error(foreign: Headers) -> None:
    with pytest.raises(ValueError):
        unwrap(foreign)


@pytest.mark.parametrize("count", [None, b"", b"0", b"13", b"-1", b"+1", b" 1", b"x", b"9" * 5000])
def test_a_count_that_cannot_be_is_refused(count: bytes | None) -> None:
    letter = wrap(b"k", b"v", (), information())
    with pytest.raises(ValueError):
        unwrap((*letter[:-1], (HEADER_COUNT, count)))


def test_a_refusal_never_repeats_what_the_headers_held() -> None:
    letter = dict(wrap(None, None, (), information())) | {"review-worker-reason": b"CANARY"}
    with pytest.raises(ValueError) as refusal:
        unwrap(tuple(letter.items()))
    assert "CANARY" not in str(refusal.value)


def test_a_newer_worker_s_extra_header_is_passed_over() -> None:
    *ours, (name, count) = wrap(b"k", b"v", (("own", b"1"),), information())
    newer = (*ours, ("review-worker-mood", b"good"), (name, str(int(count or b"") + 1).encode()))
    assert unwrap(newer) == ((("own", b"1"),), information())
