"""`review-worker classify` over whatever the machine has; that its labels are the worker's, test_worker.py shows."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.engine import MeetingEngine
from worker.cli import app
from worker.engine import choice

REVIEWS = 700
"""More than are read at once."""


def test_a_file_keeps_every_device_busy_and_its_order(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_busy = threading.Barrier(4)
    engines = [MeetingEngine(all_busy) for _ in range(4)]
    monkeypatch.setattr(choice, "make_engines", lambda *ignored: engines)
    source, target = tmp_path / "reviews.jsonl", tmp_path / "labelled.jsonl"
    reviews: list[dict[str, Any]] = [
        {"review_id": str(i), "text": f"review {i} " * (1 + i % 9)} for i in range(REVIEWS)
    ]
    source.write_text("".join(json.dumps(review) + "\n" for review in reviews))
    command = ["classify", "--checkpoint", str(checkpoint), "--input", str(source), "--output", str(target)]
    assert not app(command, standalone_mode=False)
    assert [json.loads(line)["review_id"] for line in target.read_text().splitlines()] == [
        str(i) for i in range(REVIEWS)
    ]
