"""`review-worker classify` over whatever the machine has; that its labels are the worker's, test_worker.py shows."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine import FakeEngine, MeetingEngine
from worker.cli import app
from worker.engine import choice
from worker.faults import DeviceFault

REVIEWS = 700
"""More than are read at once."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    reviews: list[dict[str, Any]] = [
        {"review_id": str(i), "text": f"review {i} " * (1 + i % 9)} for i in range(REVIEWS)
    ]
    path = tmp_path / "reviews.jsonl"
    path.write_text("".join(json.dumps(review) + "\n" for review in reviews))
    return path


def test_a_device_that_breaks_ends_it(checkpoint: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(50)
    engine.healthy = False
    monkeypatch.setattr(choice, "make_engines", lambda *ignored: [engine])
    with pytest.raises(DeviceFault):
        app(["classify", "--checkpoint", str(checkpoint), "--input", str(source)], standalone_mode=False)


def test_a_file_keeps_every_device_busy_and_its_order(
    checkpoint: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_busy = threading.Barrier(4)
    engines = [MeetingEngine(all_busy) for _ in range(4)]
    monkeypatch.setattr(choice, "make_engines", lambda *ignored: engines)
    target = tmp_path / "labelled.jsonl"
    command = ["classify", "--checkpoint", str(checkpoint), "--input", str(source), "--output", str(target)]
    assert not app(command, standalone_mode=False)
    assert [json.loads(line)["review_id"] for line in target.read_text().splitlines()] == [
        str(i) for i in range(REVIEWS)
    ]
