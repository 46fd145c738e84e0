"""Three workers, a stream, and everything that can go wrong: nothing is lost, and nothing doubled that may not be.

The long form, with a million records and a hundred kills, is `make chaos` (tests/chaos/long.py).
"""

from __future__ import annotations

import pytest

from tests.chaos.conftest import Chaos
from tests.chaos.faults import (
    crash_broker,
    cut,
    grow,
    kill,
    kill_leader,
    refuse,
    relapse,
    roll,
    shrink,
    silence,
    slow,
    usurp,
    withhold,
    zombie,
)
from tests.chaos.run import MODES, Mode

FAULTS = [grow, kill, zombie, crash_broker, cut, kill, withhold, shrink, roll, silence, kill, usurp, slow]
FAULTS_OF = {"at_least_once": FAULTS, "exactly_once": [*FAULTS, relapse]}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_nothing_is_lost_whatever_dies(mode: Mode, chaos: Chaos) -> None:
    verdict = chaos(mode, 20_000, FAULTS_OF[mode.delivery])
    assert not verdict.failures
    assert verdict.kills >= 4 and verdict.broker_restarts == 1


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_a_leader_killed_while_results_are_written_to_it(mode: Mode, chaos: Chaos) -> None:
    verdict = chaos(mode, 6_000, [kill_leader, refuse, kill], nodes=3)
    assert not verdict.failures
    assert verdict.broker_restarts == 2
