"""`review-train` for real on a tiny model: what it publishes, and that it resumes."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.store import ALLOWED_FILE, fetch, read_manifest
from tests.fakes.reviews import Command, fit_arguments, reviews
from tests.fakes.tiny_model import POSITIONS, make_classifier
from training import cli, trainer
from training.metrics import softmax


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """A model this small is faster so, and its sums come out the same each time."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fitted(home: Path) -> dict[str, Any]:
    """JSON line of a fit, published as m@v0001, production."""
    patch = pytest.MonkeyPatch()
    patch.chdir(home)
    lines: list[str] = []
    with patch.context() as context:
        context.setattr("sys.argv", ["review-train", *fit_arguments("m", "--promote", "production", "--json")])
        context.setattr("builtins.print", lambda *values, **_: lines.append(str(values[0])))
        try:
            cli.main()
        except SystemExit as exit_:
            assert not exit_.code, lines
    patch.undo()
    return json.loads(lines[-1])


def test_a_version_is_published_whole(fitted: dict[str, Any], home: Path) -> None:
    checkpoint = fetch(f"{home}/store/m@production", home / "cache")
    manifest = checkpoint.manifest
    assert fitted["checkpoint"] == "store/m@v0001" and manifest.version == "v0001"
    assert set(manifest.files) >= {"model.safetensors", "config.json", "tokenizer.json", "report/README.md"}
    assert set(manifest.files) >= {"report/history.png", "report/confusion.png", "report/metrics.json"}
    assert all(ALLOWED_FILE.match(file) for file in manifest.files)
    assert manifest.labels == ["negative", "positive"] and manifest.recipe.max_length == 32
    assert manifest.metrics and manifest.metrics_uncalibrated and manifest.data
    assert manifest.metrics.model_dump() == fitted["metrics"]
    assert fitted["metrics"]["accuracy"] > fitted["baseline"]["majority"]["accuracy"]
    assert manifest.training["hyperparameters"]["epochs"] == 3 and manifest.training["split"] == [80, 20, 0]
    assert manifest.data.rows["outside_ranges"] == 55
    assert sum(manifest.data.rows[part] for part in ("train", "validation")) == 545
    history = json.loads((checkpoint.directory / "report" / "metrics.json").read_text())["history"]
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    assert not list((home / "work").glob("m-*")), "a finished run leaves nothing to resume"


def test_stock_transformers_give_the_calibrated_probabilities(
    fitted: dict[str, Any], home: Path, command: Command
) -> None:
    """softmax(logits / T + b), the logits those of the same run published without calibration."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    code, _, err = command(*fit_arguments("m-raw", "--no-calibrate"))
    assert code == 0, err
    texts = [row["text"] for row in reviews(700)[600:650]]

    def logits(directory: Path) -> np.ndarray:
        model = AutoModelForSequenceClassification.from_pretrained(directory, local_files_only=True)
        encoded = AutoTokenizer.from_pretrained(directory)(texts, padding=True, truncation=True, return_tensors="pt")
        return model(**encoded).logits.detach().numpy()

    directory = home / "store" / "m" / "v0001"
    found = read_manifest(str(directory)).training["calibration"]
    assert found["temperature"] != 1 and any(found["bias"])
    expected = softmax(logits(home / "store" / "m-raw" / "v0001") / found["temperature"] + np.array(found["bias"]))
    served = softmax(logits(directory))
    assert np.abs(served - expected).max() < 1e-6
    answers = pipeline("text-classification", model=str(directory), top_k=None)(texts)
    for answer, (negative, positive) in zip(answers, served, strict=True):
        scores = {entry["label"]: entry["score"] for entry in answer}
        assert scores == pytest.approx({"negative": negative, "positive": positive}, abs=1e-5)


def test_evaluate_gives_what_fit_measured(fitted: dict[str, Any], command: Command) -> None:
    code, line, err = command("evaluate", "--checkpoint", "store/m@production", "--data", "held-out.csv")
    assert code == 0, err
    assert line["metrics"] == fitted["metrics"] | {"ece": pytest.approx(fitted["metrics"]["ece"], abs=1e-6)}
    assert set(line) == {"checkpoint", "metrics", "baseline", "seconds"}


def test_an_interrupted_run_goes_on_and_ends_the_same(
    fitted: dict[str, Any], home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = command(*fit_arguments("m-two", "--resume"))
    assert code == 2 and "--resume: no epoch" in err
    save = trainer._Resumable.on_save

    def die(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.epoch == 2:  # the weights are written, the optimizer's state is not
            raise KeyboardInterrupt
        save(self, args, state, control, **more)

    with monkeypatch.context() as patch:
        patch.setattr(trainer._Resumable, "on_save", die)
        code, _, err = command(*fit_arguments("m-two"))
    assert code == 130 and "--resume" in err
    (work,) = (home / "work").glob("m-two-*")
    (whole,) = (path.parent for path in work.glob("checkpoint-*/optimizer.safetensors"))
    assert {path.suffix for path in whole.iterdir()} <= {".safetensors", ".json"}, "no pickle"
    code, _, err = command(*fit_arguments("m-two", "--resume"))
    assert code == 0, err
    assert "epoch 1/3" not in err and "epoch 2/3" in err
    digests = [read_manifest(f"{home}/store/{name}/v0001").weights_digest for name in ("m", "m-two")]
    assert digests[0] == digests[1]


def test_a_run_that_could_not_publish_need_not_train_again(
    fitted: dict[str, Any], home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("training.fit.publish", fail)
        with pytest.raises(OSError, match="disk full"):
            command(*fit_arguments("m-full"))
    code, _, err = command(*fit_arguments("m-full", "--resume"))
    assert code == 0 and err.count("epoch 3/3") == 1, "once by the run that failed"
    digests = [read_manifest(f"{home}/store/{name}/v0001").weights_digest for name in ("m", "m-full")]
    assert digests[0] == digests[1]


def test_groups_splits_balance_and_formats(home: Path, command: Command) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = reviews(400)
    pq.write_table(pa.Table.from_pylist(rows[:200]), home / "a.parquet")
    (home / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[200:]))
    code, line, err = command(
        *("fit", "--data", "a.parquet", "--data", "b.jsonl", "--base-model", "base", "--store", "store", "--name", "g"),
        *("--group-column", "product", "--split", "60/20/20", "--balance", "weights", "--max-train-rows", "100"),
        *("--epochs", "1", "--batch-size", "16", "--max-length", "16", "--work-dir", "work", "--seed", "7"),
    )
    assert code == 0, err
    data = read_manifest(f"{home}/store/g/v0001").data
    assert data and data.files == ["a.parquet", "b.jsonl"] and data.rows["train"] == 100
    assert 50 <= data.rows["test"] <= 95 and line["metrics"]["confusion"]


def test_an_existing_classifier_becomes_a_version(home: Path, command: Command) -> None:
    make_classifier(home / "theirs", (row["text"] for row in reviews(50)), ["bad", "good"])
    code, line, err = command("import", "--model", "theirs", "--store", "store", "--name", "theirs")
    assert code == 0 and line["metrics"] is None, err
    manifest = fetch(f"{home}/store/theirs@v0001", home / "cache").manifest
    assert manifest.labels == ["bad", "good"] and manifest.recipe.max_length == POSITIONS and manifest.training == {}
    code, line, err = command(
        *("import", "--model", "theirs", "--store", "store", "--name", "theirs", "--data", "held-out.csv"),
        *("--labels", "1-2:bad,4-5:good"),
    )
    assert (
        code == 0 and line["checkpoint"] == "store/theirs@v0002" and sum(map(sum, line["metrics"]["confusion"])) == 91
    )


def test_a_version_can_be_trained_further(fitted: dict[str, Any], home: Path, command: Command) -> None:
    code, _, err = command(*fit_arguments("m", "--epochs", "1", "--base-model", "store/m/v0001"))
    assert code == 0, err
    assert read_manifest(f"{home}/store/m/v0002").parent == "m@v0001"
