"""The breaker trips on the right record: not one earlier, not one later."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from worker.breaker import Breaker


@given(st.integers(1, 100), st.integers(1, 30), st.integers(1, 40), st.lists(st.booleans(), max_size=120))
def test_it_trips_when_more_than_the_share_of_the_window_was_rejected(
    percent: int, window: int, minimum: int, outcomes: list[bool]
) -> None:
    breaker = Breaker(percent / 100, window, minimum)
    for count in range(1, len(outcomes) + 1):
        last = outcomes[max(0, count - window) : count]
        enough = len(last) >= min(minimum, window)
        expected = enough and Fraction(sum(last), len(last)) > Fraction(percent, 100)
        assert breaker.record(outcomes[count - 1]) == expected
        assert str(breaker) == f"{sum(last)} of the last {len(last)} records were rejected"


def test_one_point_nought_turns_it_off() -> None:
    breaker = Breaker(1.0, 10, 1)
    assert not any(breaker.record(True) for _ in range(1000))


def test_the_defaults_wait_for_a_hundred_records() -> None:
    breaker = Breaker(0.2, 1000, 100)
    assert not any(breaker.record(True) for _ in range(99))
    assert breaker.record(True)
