"""What the tests of the whole worker share: a checkpoint, real review texts, three fresh topics, worker and tools."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.datafiles import Row, read_rows
from tests.fakes.checkpoint import make_checkpoint
from tests.fakes.stream import Stream
from tests.fakes.tools import flags
from worker.cli import app
from worker.tools.process import WorkerProcess

BUNDLED_REVIEWS = Path(__file__).parents[2] / "training" / "data" / "vader_reviews.csv.gz"


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Real reviews: those bundled with the project."""
    return [row.values["text"] for row in read_rows(str(BUNDLED_REVIEWS)) if isinstance(row, Row)]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("store") / "random", texts[:3000])


@pytest.fixture
def stream(bootstrap: str, topics: Callable[..., str]) -> dict[str, Any]:
    """Settings of a worker with topics and a group of its own."""
    return {
        "kafka.bootstrap_servers": bootstrap,
        "kafka.input_topic": topics("reviews", partitions=4),
        "kafka.output_topic": topics("labelled", partitions=4),
        "kafka.dead_letter_topic": (dead_letters := topics("dead-letters", partitions=4)),
        "kafka.group_id": f"group-{dead_letters}",
    }


@pytest.fixture
def worker(checkpoint: Path, tmp_path: Path) -> Callable[..., WorkerProcess]:
    """Starts `review-worker run` with the settings given."""
    return lambda settings, **environment: WorkerProcess(checkpoint, tmp_path / "worker.log", settings, **environment)


@pytest.fixture
def tool(stream: Stream, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Runs a command in this process and returns its last line, which is JSON."""

    def call(*command: str) -> dict[str, Any]:
        capsys.readouterr()
        assert not app([*command, "--json", *flags(stream)], standalone_mode=False)
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return call
