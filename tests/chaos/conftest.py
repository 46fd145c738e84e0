"""What the short form of the chaos suite shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.chaos.faults import Fault
from tests.chaos.reviews import review_texts
from tests.chaos.run import Mode, Run, Verdict
from tests.chaos.world import World
from tests.fakes.checkpoint import make_checkpoint

Chaos = Callable[..., Verdict]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("store") / "random", review_texts())


@pytest.fixture
def chaos(checkpoint: Path, tmp_path: Path) -> Chaos:
    """Runs one mode with these faults on a Kafka of its own; prints the verdict, which pytest shows of a failure."""

    def run(mode: Mode, records: int, faults: Sequence[Fault], nodes: int = 1) -> Verdict:
        with World(nodes) as world:
            verdict = Run(mode, world, checkpoint, tmp_path, records).execute(faults)
        print(verdict.to_json())
        return verdict

    return run
