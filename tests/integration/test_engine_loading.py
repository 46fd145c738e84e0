"""From a checkpoint to engines: what is refused, and for which cause; what fits the memory; what each device gets."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.store import Checkpoint, CheckpointError
from tests.fakes.checkpoint import make_checkpoint as make_store
from tests.fakes.classifiers import LONGEST, load_engine, make_checkpoint, reference, reviews, seal
from worker.engine import load_engines, loading, stock
from worker.engine.processor import cores
from worker.faults import DeviceFault
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


def rewritten(directory: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Checkpoint:
    """The checkpoint with other weights."""
    weights = load_file(directory / "model.safetensors")
    change(weights)
    save_file({name: tensor.clone() for name, tensor in weights.items()}, directory / "model.safetensors")
    return seal(directory)


def with_config(directory: Path, **changes: Any) -> Checkpoint:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **changes}))
    return seal(directory)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda weights: weights.update({"classifier.weight": weights["classifier.weight"][:1]}), r"\(1, 64\)"),
        (lambda weights: weights.pop("bert.pooler.dense.bias"), "pooler.dense.bias is missing"),
        (lambda weights: weights.update({"bert.encoder.layer.2.adapter": torch.ones(1)}), "adapter is of no layer"),
    ],
)
def test_weights_of_another_model_are_refused(tmp_path: Path, change: Any, cause: str) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=cause):
        load_engine(rewritten(tmp_path, change), FLOAT32)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_hidden_layers": "3"}, "num_hidden_layers is '3'"),
        ({"num_hidden_layers": 4}, "layer.3.* is missing"),
        ({"num_attention_heads": 5}, "5 heads cannot share"),
        ({"intermediate_size": 95}, "intermediate.dense.weight is"),
        ({"model_type": "brand-new"}, "brand-new"),
        ({"max_position_embeddings": LONGEST - 1}, f"recipe asks for {LONGEST}"),
    ],
)
def test_a_config_of_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], cause: str) -> None:
    make_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=cause) as caught:
        load_engine(with_config(tmp_path, **changes), FLOAT32)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_none_is_refused(tmp_path: Path) -> None:
    make_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        load_engine(seal(tmp_path), FLOAT32)


def test_what_transformers_would_leave_out_of_a_layer_is_refused(tmp_path: Path) -> None:
    """transformers 5 has no relative positions: it would serve another model without a word."""
    make_checkpoint(tmp_path)
    name = "bert.encoder.layer.0.attention.self.distance_embedding.weight"
    rewritten(tmp_path, lambda weights: weights.update({name: torch.randn(127, 16)}))
    with pytest.raises(CheckpointError, match=r"no use for these weights: .*distance_embedding"):
        load_engine(with_config(tmp_path, position_embedding_type="relative_key"), FLOAT32)


@pytest.mark.parametrize(("name", "error"), [("Bert", DeviceFault), ("Roberta", CheckpointError)])
def test_a_model_without_numbers_never_serves(tmp_path: Path, name: str, error: type[Exception]) -> None:
    make_checkpoint(tmp_path, name)

    def spoil(weights: dict[str, torch.Tensor]) -> None:
        next(tensor for key, tensor in weights.items() if "layer.1" in key).fill_(torch.nan)

    with pytest.raises(error, match="no numbers"):
        load_engine(rewritten(tmp_path, spoil), FLOAT32).warm_up()


@pytest.mark.parametrize("name", ["ConvBert", "FNet"])
def test_models_that_padding_changes_are_never_padded(tmp_path: Path, name: str) -> None:
    checkpoint = make_checkpoint(tmp_path, name)
    sequences = reviews([1, LONGEST, 7, 7, 2, 33, 7, 1, 12])
    expected = np.concatenate([reference(tmp_path, [sequence]) for sequence in sequences])
    assert np.abs(reference(tmp_path, sequences) - expected).max() > 0.1, (
        "one that padding does not change shows nothing"
    )
    said: list[str] = []
    engine = load_engine(checkpoint, FLOAT32, progress=said.append)
    assert "only equal lengths together" in said[-1]
    assert np.abs(engine.classify(sequences) - expected).max() < 1e-5


def test_what_an_arithmetic_lacks_is_computed_in_float32(tmp_path: Path) -> None:
    """As FNet's Fourier transform is in no bfloat16."""
    checkpoint, said = make_checkpoint(tmp_path, "FNet"), list[str]()
    engine = load_engine(checkpoint, FLOAT32.model_copy(update={"dtype": "bfloat16"}), progress=said.append)
    assert engine.dtype == "float32" and any("cannot run in bfloat16" in line for line in said)
    assert np.abs(engine.classify([[5, 6]]) - reference(tmp_path, [[5, 6]])).max() < 1e-5


def test_memory_that_runs_out_in_the_trial_does_not_make_a_model_padded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = make_checkpoint(tmp_path, "Roberta")
    monkeypatch.setattr(stock.PackedStock, "place", Mock(side_effect=RuntimeError("CUDA out of memory")))
    with pytest.raises(CheckpointError, match="does not fit the memory"):
        load_engine(checkpoint, FLOAT32)


def test_texts_of_one_length_must_go_together(tmp_path: Path) -> None:
    """A decoder without a padding token takes one text at a time."""
    checkpoint = make_checkpoint(tmp_path, "GPT2", pad_token_id=None)
    with pytest.raises(CheckpointError, match="texts of one length together"):
        load_engine(checkpoint, FLOAT32)


@pytest.mark.parametrize("change", [{"num_hidden_layers": "3"}, {"hidden_size": 32}, {"num_labels": 2, "id2label": []}])
def test_a_stock_config_of_another_model_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    make_checkpoint(tmp_path, "Roberta")
    with pytest.raises(CheckpointError) as caught:
        load_engine(with_config(tmp_path, **change), FLOAT32)
    assert "\n" not in str(caught.value)


LOAD = """
import sys
from pathlib import Path
from schemas.store import fetch
from worker.engine import load_engines
from worker.settings import EngineSettings
load_engines(fetch(sys.argv[1], Path(sys.argv[2])), EngineSettings(device="cpu"))
sys.exit("transformers" in sys.modules)
"""


def test_a_bert_is_loaded_without_transformers(tmp_path: Path) -> None:
    """Which takes as long to import as everything else together."""
    store = make_store(tmp_path / "bert", ["good", "bad"])
    subprocess.run([sys.executable, "-c", LOAD, str(store), str(tmp_path / "cache")], check=True, timeout=120)
