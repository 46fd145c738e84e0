"""Int8 is what the float products are, nearly; a checkpoint whose labels it does not keep is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from schemas.store import Checkpoint, CheckpointError, fetch
from tests.benchmarks.peers import read_texts
from tests.fakes.checkpoint import make_checkpoint
from tests.fakes.classifiers import load_engine
from tests.fakes.classifiers import make_checkpoint as make_other
from worker.cli import app
from worker.configuration import ConfigurationError
from worker.engine import calibration
from worker.engine.int8 import EXACT, Int8WideProducts, Observed
from worker.engine.linear import WideProducts
from worker.settings import EngineSettings

REVIEWS = Path(__file__).parents[2] / "training/data/vader_reviews.csv.gz"
INT8 = EngineSettings(device="cpu", dtype="int8", calibration=str(REVIEWS), token_budget=512)
LIMITS = {torch.float32: 0.00075, torch.bfloat16: 0.004}
"""Without what keeps the labels it is ten times as much, with values cut off instead of rounded a quarter more."""
FLOAT32 = EngineSettings(device="cpu", dtype="float32", token_budget=512)

pytestmark = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="a processor without int8 products")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return read_texts(str(REVIEWS), 2000)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Checkpoint:
    folder = tmp_path_factory.mktemp("random")
    return fetch(str(make_checkpoint(folder / "random", texts)), folder)


@pytest.fixture(autouse=True)
def fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reviews than elsewhere, to be done sooner; and labels: a random model's are a toss-up for some reviews."""
    monkeypatch.setattr(calibration, "REVIEWS", 480)
    monkeypatch.setattr(calibration, "AGREES", 0.9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu"])
@torch.inference_mode()
def test_the_products_are_those_of_float_but_for_a_little(activation: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, inner = 64, 192
    up = torch.randn(inner, hidden) / 8, torch.randn(inner)
    up[1][:EXACT] = 60  # channels that reach far beyond all others
    down = torch.randn(hidden, inner) / 8, torch.randn(hidden)
    x = torch.randn(400, hidden)
    x[:, 3] *= 30
    up[0][:, 3] /= 30
    residual = torch.randn(400, hidden)
    exact = WideProducts(up, down, activation)(x, residual)  # type: ignore[arg-type]
    observed = Observed(up, down, activation)  # type: ignore[arg-type]
    assert torch.equal(observed(x, residual), exact)
    int8 = Int8WideProducts(observed, dtype)
    for rows in (400, 33, 1):
        found = int8(x[:rows].to(dtype), residual[:rows].to(dtype)).float()
        noise = (found - exact[:rows]).std() / (exact - residual).std()
        assert 0 < noise < LIMITS[dtype], f"{rows} rows: {noise:.4f} of the result is noise"


def test_a_checkpoint_that_keeps_its_labels_is_served(checkpoint: Checkpoint) -> None:
    said: list[str] = []
    engine = load_engine(checkpoint, INT8, progress=said.append)
    assert engine.dtype == "int8" and any("of 400 reviews" in line for line in said)
    engine.warm_up()
    assert engine.self_test()
    sequences = [list(range(10, 10 + length)) for length in (1, 150, 7, 7, 33)]
    found, expected = (log_odds(one.classify(sequences)) for one in (engine, load_engine(checkpoint, FLOAT32)))
    assert np.ptp(expected) > 1, "a model that says the same to all shows nothing"
    assert 1e-3 < np.abs(found - expected).max() < 1


def log_odds(probabilities: np.ndarray) -> np.ndarray:
    return np.asarray(np.diff(np.log(probabilities), axis=1))


def test_one_that_does_not_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.int8._rounded", broken)
    with pytest.raises(CheckpointError, match=r"float32's label for \d\d\.\d\d% of 400 .* 90\.0% are required"):
        load_engine(checkpoint, INT8)


def broken(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scales = torch.full((len(weight),), float(weight.abs().max()) * 2)  # so that nothing is left
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    return torch.ops.onednn.qlinear_prepack(rounded, None), scales, torch.zeros(len(scales), dtype=torch.int64)


def test_what_it_is_calibrated_on_must_be_there_and_enough(checkpoint: Checkpoint, tmp_path: Path) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "good"}\n{"text": " "}\n{"no": "text"}\n{"text": "\\ud800"}\nnot json\n' * 30)
    with pytest.raises(CheckpointError, match=r"few\.jsonl: 30 reviews that can be read .* named text, 480 are needed"):
        load_engine(checkpoint, INT8.model_copy(update={"calibration": str(few)}))
    with pytest.raises(CheckpointError, match=r"engine\.calibration: .*none\.csv"):
        load_engine(checkpoint, INT8.model_copy(update={"calibration": str(tmp_path / "none.csv")}))


def test_other_models_and_processors_are_refused(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="int8 is for stock BERT only, this is roberta"):
        load_engine(make_other(tmp_path, "Roberta"), INT8)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(ValueError, match="AVX512-VNNI"):
        load_engine(checkpoint, INT8)


def test_classify_takes_it_as_a_setting(
    checkpoint: Checkpoint, texts: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "reviews.jsonl"
    source.write_text(
        "".join(json.dumps({"review_id": str(i), "text": text}) + "\n" for i, text in enumerate(texts[:50]))
    )
    command = ["classify", "--checkpoint", str(checkpoint.directory), "--input", str(source), "--engine.dtype=int8"]
    assert not app([*command, "--engine.device=cpu", f"--engine.calibration={REVIEWS}"], standalone_mode=False)
    assert len(capsys.readouterr().out.splitlines()) == 50
    with pytest.raises(ConfigurationError, match=r"dtype int8 needs engine\.calibration, a file of reviews"):
        app(command, standalone_mode=False)
