"""Alive is progress, not activity; ready is warm, joined and neither draining nor at fault."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.health import Health

LIMITS = {"consume": 90.0, "infer": 30.0, "publish": 30.0, "broker": 600.0}


@pytest.fixture
def health() -> Health:
    return Health(limits=dict(LIMITS))


def test_an_hour_without_work_is_no_stall(health: Health) -> None:
    health.busy("infer-0", 100.0)
    health.idle("infer-0")
    assert health.alive(3700.0)


def test_work_without_progress_is_a_stall_once_past_the_limit(health: Health) -> None:
    health.busy("infer-1", 100.0)
    assert health.stalled(130.0) is None
    assert not health.alive(130.1)
    assert health.stalled(131.04) == "stage infer-1 has made no progress for 31.0 s (limit 30 s)"
    health.busy("infer-1", 131.0)
    assert health.alive(161.0), "it has got on"
    health.idle("infer-1")
    health.idle("infer-1")


def test_one_device_s_progress_does_not_hide_another_s_stall(health: Health) -> None:
    health.busy("infer-0", 0.0)
    health.busy("infer-1", 0.0)
    health.busy("infer-1", 31.0)
    assert "infer-0" in (health.stalled(31.0) or "")


def test_who_waits_for_the_broker_has_the_broker_s_time(health: Health) -> None:
    health.busy("publish", 0.0)
    health.wait("publish", "broker", 1.0)
    assert health.alive(600.0), "blocked is not stuck"
    assert not health.alive(602.0)
    health.wait("broker", "publish", 602.0)
    assert health.alive(632.0) and not health.alive(632.1)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.sampled_from(sorted(LIMITS)))
def test_a_stage_is_stalled_exactly_past_its_limit(begin: float, later: float, stage: str) -> None:
    health = Health(limits=dict(LIMITS))
    health.busy(stage, begin)
    assert health.alive(begin + later) == (begin + later - begin <= LIMITS[stage])


def test_a_stage_without_a_limit_is_a_mistake_of_ours(health: Health) -> None:
    health.busy("unheard-of", 0.0)
    with pytest.raises(KeyError):
        health.stalled(1.0)


def test_ready_needs_all_of_it(health: Health) -> None:
    for warm, joined, draining, fault in itertools.product([0, 1], [0, 1], [0, 1], [None, "boom"]):
        health.warm, health.joined, health.draining, health.fault = bool(warm), bool(joined), bool(draining), fault
        assert health.ready == bool(warm and joined and not draining and fault is None)
        assert health.alive(0.0) == (fault is None)


def test_a_stall_is_not_unready(health: Health) -> None:
    health.warm = health.joined = True
    health.busy("infer", 0.0)
    assert health.ready and not health.alive(100.0)
