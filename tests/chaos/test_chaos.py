"""Three workers, a stream, and everything that can go wrong: nothing is lost, and nothing doubled that may not be.

A kill comes in every mode, any other fault in some: all of them in every mode, a million records and a hundred kills
are the long form, `make chaos` (tests/chaos/long.py).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

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
from tests.chaos.scenario import Scenario
from tests.chaos.verdict import Mode, Verdict

SCENARIOS = [
    Scenario(Mode("at_least_once", "librdkafka"), [kill_leader, refuse, kill], nodes=3),
    Scenario(Mode("exactly_once", "kafka-python"), [kill_leader, refuse, kill], nodes=3),
    Scenario(Mode("at_least_once", "kafka-python"), [grow, kill, crash_broker, withhold, shrink, slow, kill]),
    Scenario(Mode("at_least_once", "librdkafka"), [kill, zombie, cut, roll, silence, kill, usurp]),
    Scenario(Mode("exactly_once", "kafka-python"), [kill, zombie, cut, usurp, silence, kill, relapse], records=16_000),
    Scenario(
        Mode("exactly_once", "librdkafka"), [grow, kill, crash_broker, withhold, roll, zombie, relapse], records=16_000
    ),
]


@pytest.mark.parametrize("job", SCENARIOS, ids=str)
def test_nothing_is_lost_whatever_dies(job: Scenario, outcome: Callable[[Scenario], Verdict]) -> None:
    verdict = outcome(job)
    assert not verdict.failures
    assert verdict.kills >= 2 and verdict.faults == len(job.faults)
