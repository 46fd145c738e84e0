"""From a checkpoint to engines: what is refused, and for which cause; what fits the memory; what each device gets."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.store import Checkpoint, CheckpointError
from tests.fakes.classifiers import LONGEST, load_engine, make_checkpoint, reviews, seal
from worker.engine import load_engines, loading, stock
from worker.engine.processor import cores
from worker.settings import EngineSettings

FLOAT32 = EngineSettings(device="cpu", dtype="float32", token_budget=256)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_checkpoint(tmp_path_factory.mktemp("bert"))


def test_what_does_not_fit_beside_a_serving_engine_is_refused(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine(checkpoint, FLOAT32)
    before, weights = engine.classify(reviews([5, 9])), (checkpoint.directory / "model.safetensors").stat().st_size
    for left, cause in ((weights - 1, "MiB are left"), (weights + 1, "one longest review does not fit")):
        monkeypatch.setattr(loading, "memory_left", lambda left=left: left)
        with pytest.raises(CheckpointError, match=cause):
            load_engines(checkpoint, FLOAT32)
    for error in (
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(loading, "memory_left", lambda: 2**40)
            patch.setattr(loading, "PackedBert", Mock(side_effect=error))
            with pytest.raises(CheckpointError, match="does not fit the memory"):
                load_engines(checkpoint, FLOAT32)
    assert (engine.classify(reviews([5, 9])) == before).all()


def test_there_is_room_for_a_successor(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine so small that the first engines' budget is bounded by it."""
    left = 4 * (checkpoint.directory / "model.safetensors").stat().st_size
    monkeypatch.setattr(loading, "memory_left", lambda: left)
    wanted = FLOAT32.model_copy(update={"token_budget": 10**6})
    first = load_engines(checkpoint, wanted)
    model = sum(tensor.nbytes for tensor in load_file(checkpoint.directory / "model.safetensors").values())
    left -= model + (left - model) // 2  # the first model, and its batches
    successor = load_engines(checkpoint, wanted, successor=True)
    assert LONGEST < successor[0].token_budget < 10**6
    assert abs(successor[0].token_budget - first[0].token_budget) <= 1


def test_each_device_has_engines_and_a_model_of_its_own(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(loading, "devices", lambda wanted: [cpu, cpu])
    engines = load_engines(checkpoint, FLOAT32)
    assert len(engines) == 2 * cores() and len({id(engine._forward) for engine in engines}) == 2
    answers = [engine.classify(reviews([5, 9])) for engine in engines]
    assert all((answer == answers[0]).all() for answer in answers)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [({"num_labels": 3}, "3 outputs"), ({"problem_type": "multi_label_classification"}, "one label a review")],
)
def test_what_is_no_classifier_into_the_labels_is_refused(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    checkpoint = make_checkpoint(tmp_path, **changes)
    with pytest.raises(CheckpointError, match=cause):
        load_engine(checkpoint, FLOAT32)


def test_weights_that_are_not_what_the_config_says_are_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match="not the weights"):
        load_engine(seal(tmp_path), FLOAT32)


def test_a_classifier_into_other_labels_than_its_config_says_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    one = {name: weights[name][:1] for name in ("classifier.weight", "classifier.bias")}
    save_file({name: tensor.clone() for name, tensor in (weights | one).items()}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="a classifier into 1 labels"):
        load_engine(seal(tmp_path), FLOAT32)


def test_what_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "brand-new"}))
    with pytest.raises(CheckpointError, match="brand-new") as caught:
        load_engine(seal(tmp_path), FLOAT32)
    assert "\n" not in str(caught.value)


def test_memory_that_runs_out_in_the_trial_does_not_make_a_model_padded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(tmp_path, "Roberta")
    monkeypatch.setattr(stock.PackedStock, "place", Mock(side_effect=RuntimeError("CUDA out of memory")))
    with pytest.raises(CheckpointError, match="does not fit the memory"):
        load_engine(checkpoint, FLOAT32)
