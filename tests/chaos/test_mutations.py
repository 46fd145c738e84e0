"""The suite is itself tested: a worker that breaks a guarantee is found out. docs/guarantees.md tells which by what."""

from __future__ import annotations

import pytest

from tests.chaos.conftest import Chaos, Scenario
from tests.chaos.faults import Fault, relapse, shrink, withhold, zombie
from tests.chaos.run import Mode, Workers
from tests.chaos.world import PARTITIONS

AT_LEAST_ONCE, EXACTLY_ONCE = Mode("at_least_once", "kafka-python"), Mode("exactly_once", "kafka-python")


def broken(mutation: str, mode: Mode, faults: list[Fault], partitions: int = PARTITIONS, **workers: object) -> Scenario:
    like = Workers(patience=40, **workers)  # type: ignore[arg-type]
    return Scenario(mode, faults, records=8000, partitions=partitions, mutation=mutation, workers=like)


@pytest.mark.parametrize(
    ("scenario", "found"),
    [
        (broken("commit_before_acknowledgement", AT_LEAST_ONCE, [withhold]), "lost"),
        # What was read before an abort must still be on the device when all begins again.
        (
            broken("no_epoch_check", EXACTLY_ONCE, [shrink], tokens_per_second=3000, token_budgets=(3000, 3000, 3000)),
            "duplicates",
        ),
        # The aborted transaction must hold records of another partition than the next, which must be the last.
        (
            broken(
                "producer_kept_after_abort",
                EXACTLY_ONCE,
                [relapse] * 3,
                partitions=24,
                tokens_per_second=3000,
                token_budgets=(1000, 1000, 1000),
            ),
            "lost",
        ),
        (broken("group_metadata_unchecked", EXACTLY_ONCE, [zombie, zombie]), "duplicates"),
        (broken("neighbours_result", AT_LEAST_ONCE, []), "wrong"),
    ],
    ids=str,
)
def test_a_broken_worker_is_found_out(scenario: Scenario, found: str, chaos: Chaos) -> None:
    verdict = chaos(scenario)
    assert getattr(verdict, found) > (verdict.allowed_duplicates if found == "duplicates" else 0), verdict.failures
