"""What the tests of training share: a directory with a tiny base model and reviews, and the command line run in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.reviews import Command, reviews, write
from tests.fakes.tiny_model import make_base_model
from training import cli


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a base model, training data and held-out data."""
    directory = tmp_path_factory.mktemp("training")
    rows = reviews(700)
    make_base_model(directory / "base", (row["text"] for row in rows))
    write(directory / "train.csv", rows[:600])
    write(directory / "held-out.csv", rows[600:])
    return directory


@pytest.fixture
def command(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs review-train; exit code, JSON line and standard error."""

    def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
        monkeypatch.chdir(home)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("sys.argv", ["review-train", *arguments, "--json"])
        code = 0
        try:
            cli.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, json.loads(captured.out.splitlines()[-1]) if code == 0 else {}, captured.err

    return run
