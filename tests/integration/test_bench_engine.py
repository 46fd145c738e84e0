"""`review-worker bench engine` on a small model: what it reports, and what it refuses. No figure is judged."""

import json
from pathlib import Path

import pytest
import typer

from worker.cli import app

FAST = ["--seconds", "0.1", "--rounds", "1"]


def test_every_budget_is_measured_and_the_best_one_reported(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["bench", "engine", "--checkpoint", str(checkpoint), "--budgets", "400,200,1", *FAST]
    assert not app([*command, "--engine.device=cpu", "--engine.dtype=float32"], standalone_mode=False)
    output = capsys.readouterr()
    best = json.loads(output.out)
    assert set(best) == {
        "matrix_gflops", "engine_gflops", "share_of_peak", "reviews_per_second", "token_budget", "mean_tokens",
        "device", "engines", "dtype",
    }  # fmt: skip
    assert best["token_budget"] in (150, 200, 400) and best["reviews_per_second"] > 0
    assert best["share_of_peak"] == pytest.approx(best["engine_gflops"] / best["matrix_gflops"], rel=0.05)
    for budget in (150, 200, 400):  # one longest review is the least
        assert f"{budget} tokens a batch" in output.err


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["--budgets", "512,0"], "above 0"),
        (["--budgets", "x"], "above 0"),
        (["--input", "reviews.csv"], "needs --checkpoint"),
        (["--engine.device=simulated"], "computes nothing"),
        (["--engine.token_budget=512"], "--budgets"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments: list[str], cause: str) -> None:
    with pytest.raises(typer.BadParameter, match=cause):
        app(["bench", "engine", *arguments], standalone_mode=False)
