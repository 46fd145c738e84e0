"""The suite is itself tested: a worker that breaks a guarantee is found out. docs/guarantees.md tells which by what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.faults import Fault, relapse, shrink, withhold, zombie
from tests.chaos.scenario import Scenario
from tests.chaos.verdict import Mode, Verdict, Workers

LIKE = Workers(patience=40)
QUICK_TO_PUBLISH = replace(LIKE, token_budgets=(1000,) * 3)
SLOW = replace(LIKE, tokens_per_second=3000, token_budgets=(1000,) * 3)
AT_LEAST_ONCE, EXACTLY_ONCE = Mode("at_least_once", "kafka-python"), Mode("exactly_once", "kafka-python")
LIBRDKAFKA = Mode("exactly_once", "librdkafka")


def broken(mutation: str, mode: Mode, faults: list[Fault], like: Workers = LIKE, **more: Any) -> Scenario:
    return Scenario(mode, faults, records=8000, mutation=mutation, workers=like, **more)


@pytest.mark.parametrize(
    ("job", "found"),
    [
        (broken("commit_before_acknowledgement", AT_LEAST_ONCE, [withhold]), "lost"),
        # What was read before an abort must still be on the device when all begins again.
        (broken("no_epoch_check", EXACTLY_ONCE, [shrink], replace(SLOW, token_budgets=(3000,) * 3)), "duplicates"),
        # The aborted transaction must hold another partition than the next, which must be the last before a kill: from
        # a long backlog, reading begins again with the first partition.
        (broken("producer_kept_after_abort", EXACTLY_ONCE, [relapse] * 3, SLOW, partitions=12, backlog=True), "lost"),
        (broken("group_metadata_unchecked", EXACTLY_ONCE, [zombie, zombie]), "duplicates"),
        # Not every one that wakes commits before it hears that it was given up.
        (broken("librdkafka_group_metadata_unchecked", LIBRDKAFKA, [zombie] * 4, QUICK_TO_PUBLISH), "duplicates"),
        (broken("neighbours_result", AT_LEAST_ONCE, []), "wrong"),
    ],
    ids=str,
)
def test_a_broken_worker_is_found_out(job: Scenario, found: str, outcome: Callable[[Scenario], Verdict]) -> None:
    verdict = outcome(job)
    assert getattr(verdict, found) > (verdict.allowed_duplicates if found == "duplicates" else 0), verdict.failures
