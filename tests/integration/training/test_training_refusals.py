"""`review-train` for real: which models and mistakes it refuses, each in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fakes.reviews import Command, fit_arguments, reviews
from tests.fakes.tiny_model import make_classifier


def pickled(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def with_code(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))


def truncated(directory: Path) -> None:
    weights = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(weights[: len(weights) // 2])


def without_config(directory: Path) -> None:
    (directory / "config.json").unlink()


def without_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()


def with_relative_positions(directory: Path) -> None:
    """Which transformers 5 leaves out without a word."""
    weights = load_file(directory / "model.safetensors")
    weights["bert.encoder.layer.0.attention.self.distance_embedding.weight"] = torch.zeros(9, 4)
    save_file(weights, directory / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (pickled, "pytorch_model.bin is a pickle, and only safetensors weights are read"),
        (with_code, "needs code of its own"),
        (truncated, "refused: "),
        (without_config, "config.json is missing"),
        (without_tokenizer, "refused: "),
        (with_relative_positions, "has no use for its weight bert.encoder.layer.0.attention.self.distance_embedding"),
        (None, "no trained classifier"),
    ],
)
def test_models_that_are_refused(
    home: Path,
    command: Command,
    damage: Callable[[Path], None] | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(home / "refused", ignore_errors=True)
    if damage:
        make_classifier(home / "refused", (row["text"] for row in reviews(50)), ["bad", "good"])
        damage(home / "refused")
        capsys.readouterr()  # how far the writing of the model was
    else:
        shutil.copytree(home / "base", home / "refused")
    code, _, err = command("import", "--model", "refused", "--store", "store", "--name", "refused")
    assert code == 2 and message in err and err.strip().count("\n") == 0, err
    assert not list((home / "store" / "refused").glob("v*"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--base-model", "google-bert/bert-base-cased"], "the Hub did not give it"),
        (["--base-model", "./missing"], "./missing: no such directory"),
        (["--max-length", "65"], "reads at most 64 tokens"),
        (["--rating-column", "stars"], "train.csv:2: no column 'stars'; there are text, rating, product"),
        (["--data", "missing.csv"], "missing.csv: no such file"),
        (["--labels", "1-5:any"], "only the label any"),
        (["--test-data", "train.csv"], "too few rows"),
    ],
)
def test_mistakes_are_one_line(command: Command, more: list[str], message: str) -> None:
    code, _, err = command(*fit_arguments("mistakes", *more))
    assert code == 2 and message in err.splitlines()[-1] and "Traceback" not in err, err
