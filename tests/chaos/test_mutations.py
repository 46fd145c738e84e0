"""The suite is itself tested: a worker that breaks a guarantee is found out. docs/guarantees.md tells which by what."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.conftest import Chaos
from tests.chaos.faults import Fault, relapse, shrink, withhold, zombie
from tests.chaos.mutations import command
from tests.chaos.run import Mode

AT_LEAST_ONCE, EXACTLY_ONCE = Mode("at_least_once", "kafka-python"), Mode("exactly_once", "kafka-python")

RECORDS = 8000


@pytest.mark.parametrize(
    ("mutation", "mode", "faults", "found"),
    [
        ("commit_before_acknowledgement", AT_LEAST_ONCE, [withhold], "lost"),
        ("no_epoch_check", EXACTLY_ONCE, [shrink], "duplicates"),
        ("producer_kept_after_abort", EXACTLY_ONCE, [relapse, relapse], "lost"),
        ("group_metadata_unchecked", EXACTLY_ONCE, [zombie, zombie], "duplicates"),
        ("neighbours_result", AT_LEAST_ONCE, [], "wrong"),
    ],
)
def test_a_broken_worker_is_found_out(
    mutation: str,
    mode: Mode,
    faults: list[Fault],
    found: str,
    chaos: Chaos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.tools.process.COMMAND", command(mutation, tmp_path))
    monkeypatch.setattr("tests.chaos.run.PATIENCE", 40)  # seconds; a broken worker may well get stuck
    if mutation == "no_epoch_check":  # what was read before an abort must still be on the device when all begins again
        monkeypatch.setattr("tests.chaos.run.TOKENS_PER_SECOND", 3000)
        monkeypatch.setattr("tests.chaos.run.TOKEN_BUDGETS", (3000, 3000, 3000))
    verdict = chaos(mode, RECORDS, faults)
    assert getattr(verdict, found) > (verdict.allowed_duplicates if found == "duplicates" else 0), verdict.failures
