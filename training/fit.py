"""`fit`: data files → split → fine-tune → calibrate → measure → report → a published version."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rich.console import Console

from schemas import store as layout
from schemas.manifest import CheckpointManifest, DataFingerprint, Metrics
from schemas.recipe import TextRecipe
from training import __version__
from training import metrics as quality
from training.calibrate import Calibration, calibrate
from training.dataset import BAD_ROWS_SHOWN, Dataset, Example, load
from training.errors import InputError
from training.models import Classifier, load_base, precision
from training.options import FitOptions
from training.publish import prepare, promote, publish
from training.report import write_report
from training.show import progress_bar
from training.splits import oversample, require_every_label, same_text, split

if TYPE_CHECKING:
    from training.trainer import Epoch

LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "scikit-learn", "scipy")


class Parts(NamedTuple):
    """The examples of each part."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]


def fit(
    options: FitOptions, store: str, name: str, alias: str | None, work_root: Path, resume: bool, console: Console
) -> tuple[CheckpointManifest, dict[str, Any]]:
    """Publishes a version; returns its manifest and the report's numbers."""
    started = time.monotonic()
    prepare(store, name, alias)
    dataset, parts = read_parts(options, console)
    from training.trainer import last_checkpoint  # brings in all of transformers: bad data is told sooner

    work_dir = work_root / f"{name}-{_fingerprint(options, dataset)}"
    if resume and not last_checkpoint(work_dir):
        raise InputError(f"--resume: no epoch of a run with these options and this data was finished in {work_root}")
    if not resume:
        shutil.rmtree(work_dir, ignore_errors=True)
    classifier = load_base(options.base_model, dataset.labels, options.hyperparameters.dropout, options.seed)
    classifier.require_length(options.recipe.max_length)
    try:
        history = _train(classifier, parts, options, work_dir, resume, console)
    except KeyboardInterrupt:
        if last_checkpoint(work_dir):
            console.print("the same command with --resume goes on after the last finished epoch")
        raise
    calibration, served, raw = _measure(classifier, parts, options, dataset.labels, console)
    with console.status("measuring the baseline"):
        baseline = {
            "majority": quality.majority(list(dataset.counts(parts.train).values()), _truth(parts.test)),
            "bag_of_words": quality.bag_of_words(parts.train, parts.test),
        }
    best = max(history, key=lambda epoch: epoch.validation_accuracy)
    numbers = {
        "metrics": served.model_dump(),
        "metrics_uncalibrated": raw.model_dump(),
        "baseline": baseline,
        "calibration": asdict(calibration),
        "best_epoch": best.epoch,
    }
    training = options.arguments() | {"precision": precision(), "calibration": asdict(calibration)}
    manifest = draft(name, dataset.labels, options.recipe, options.base_model).model_copy(
        update={
            "training": training,
            "data": fingerprint(dataset, parts),
            "metrics": served,
            "metrics_uncalibrated": raw,
            "parent": _parent(options.base_model),
        }
    )
    manifest = save_version(classifier, store, manifest, numbers, history)
    if alias:
        promote(store, name, manifest.version, alias)
    shutil.rmtree(work_dir, ignore_errors=True)
    return manifest, numbers | {"seconds": round(time.monotonic() - started, 1)}


def read_parts(options: FitOptions, console: Console) -> tuple[Dataset, Parts]:
    """The data and its split, with a line on what was left out."""
    source: dict[str, Any] = {"group_column": options.group_column, "skip_bad_rows": options.skip_bad_rows}
    with console.status("reading data"):
        dataset = load(options.data, options.label_column, options.recipe, **source)
        report_left_out(dataset, console)
        examples, test = dataset.examples, []
        if options.test_data:
            held_out = load(options.test_data, options.label_column, options.recipe, labels=dataset.labels, **source)
            report_left_out(held_out, console)
            test = held_out.examples
            texts, groups = {same_text(e.text) for e in test}, {e.group for e in test} - {None}
            examples = [e for e in examples if same_text(e.text) not in texts and e.group not in groups]
            if dropped := len(dataset.examples) - len(examples):
                console.print(f"{dropped} rows left out of training: their text or group is in the test data")
        found = (
            split(examples, options.split[: 2 if options.test_data else 3], options.seed) if examples else [[], [], []]
        )
    parts = Parts(found[0], found[1], test or found[2])
    require_every_label(parts._asdict(), dataset.labels)
    limit = options.max_train_rows
    if limit and limit < len(parts.train):
        parts = parts._replace(train=split(parts.train, (limit, len(parts.train) - limit), options.seed)[0])
        require_every_label(parts._asdict(), dataset.labels)
    console.print(
        f"{len(parts.train)} rows to train, {len(parts.validation)} to validate, {len(parts.test)} to test; "
        "training has " + ", ".join(f"{count} {label}" for label, count in dataset.counts(parts.train).items())
    )
    return dataset, parts


def report_left_out(dataset: Dataset, console: Console) -> None:
    """Says how many rows gave no label or could not be read, and where the first of those are."""
    if dataset.unlabelled:
        console.print(f"{dataset.unlabelled} rows left out: no label")
    if dataset.outside_ranges:
        console.print(f"{dataset.outside_ranges} rows left out: a rating in none of the ranges")
    if dataset.bad_rows:
        console.print(f"{len(dataset.bad_rows)} bad rows left out:")
        for row in dataset.bad_rows[:BAD_ROWS_SHOWN]:
            console.print(f"  {row.place}: {row.cause}", markup=False)
        if len(dataset.bad_rows) > BAD_ROWS_SHOWN:
            console.print(f"  and {len(dataset.bad_rows) - BAD_ROWS_SHOWN} more")


def fingerprint(dataset: Dataset, parts: Parts | None = None) -> DataFingerprint:
    """What the manifest says of the data."""
    named = parts._asdict() if parts else {"test": dataset.examples}
    rows = {part: len(examples) for part, examples in named.items()}
    return DataFingerprint(
        files=[file.rpartition("/")[2] for file in dataset.files],
        sha256=dataset.sha256,
        rows=rows
        | {"unlabelled": dataset.unlabelled, "outside_ranges": dataset.outside_ranges, "bad": len(dataset.bad_rows)},
        class_counts={part: dataset.counts(examples) for part, examples in named.items()},
    )


def draft(name: str, labels: list[str], recipe: TextRecipe, base_model: str) -> CheckpointManifest:
    """A manifest without what only publishing knows: version and files."""
    return CheckpointManifest(
        name=name,
        version="v0000",
        created_at=datetime.now(UTC),
        labels=labels,
        recipe=recipe,
        base_model=base_model,
        training={},
        code_version=__version__,
        library_versions={"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in LIBRARIES},
        thresholds={label: 1 / len(labels) for label in labels},
        files={},
    )


def save_version(
    classifier: Classifier,
    store: str,
    manifest: CheckpointManifest,
    numbers: dict[str, Any],
    history: Sequence[Epoch] = (),
) -> CheckpointManifest:
    """Writes the model and its report, and publishes them as the next version."""
    with tempfile.TemporaryDirectory(prefix="review-train-") as temporary:
        staged = Path(temporary)
        classifier.save(staged, manifest.recipe)
        write_report(staged / "report", manifest, numbers, [asdict(epoch) for epoch in history])
        return publish(staged, store, manifest)


def _train(
    classifier: Classifier, parts: Parts, options: FitOptions, work_dir: Path, resume: bool, console: Console
) -> list[Epoch]:
    examples, weights = parts.train, None
    if options.balance == "oversample":
        examples = oversample(examples, options.seed)
    elif options.balance == "weights":
        counts = np.bincount(_truth(examples))
        weights = (len(examples) / (len(counts) * counts)).tolist()
    console.print(f"training on {len(examples)} rows in {precision()}, {options.hyperparameters.epochs} epochs")
    from training.trainer import train

    with progress_bar(console) as progress:
        return train(
            classifier,
            _rows(classifier, options.recipe, examples),
            _rows(classifier, options.recipe, parts.validation),
            options.hyperparameters,
            seed=options.seed,
            class_weights=weights,
            work_dir=work_dir,
            resume=resume,
            progress=progress,
        )


def _measure(
    classifier: Classifier, parts: Parts, options: FitOptions, labels: list[str], console: Console
) -> tuple[Calibration, Metrics, Metrics]:
    """Calibrates on validation rows, in place; metrics of the test rows as served and before."""
    examples = parts.validation + parts.test
    tokens = classifier.tokens(options.recipe, [example.text for example in examples])
    with progress_bar(console) as progress:
        task = progress.add_task("measuring", total=len(tokens), note="")
        logits = classifier.logits(tokens, lambda rows: progress.advance(task, rows))
    if not np.isfinite(logits).all():
        raise InputError("training diverged: the model gives no finite numbers; lower --learning-rate")
    validation, test = logits[: len(parts.validation)], logits[len(parts.validation) :]
    calibration = Calibration(1.0, (0.0,) * len(labels))
    if options.calibrate:
        calibration = calibrate(validation, _truth(parts.validation))
        classifier.fold(calibration)
    truth = _truth(parts.test)
    served = quality.measure(quality.softmax(calibration.apply(test)), truth, labels)
    return calibration, served, quality.measure(quality.softmax(test), truth, labels)


def _rows(classifier: Classifier, recipe: TextRecipe, examples: Sequence[Example]) -> list[dict[str, Any]]:
    tokens = classifier.tokens(recipe, [example.text for example in examples])
    return [{"input_ids": row.ids, "labels": example.label} for row, example in zip(tokens, examples, strict=True)]


def _truth(examples: Sequence[Example]) -> np.ndarray:
    return np.array([example.label for example in examples])


def _fingerprint(options: FitOptions, dataset: Dataset) -> str:
    content = json.dumps([options.arguments(), options.base_model, options.recipe.model_dump(), dataset.sha256])
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _parent(base_model: str) -> str | None:
    if not (Path(base_model) / layout.MANIFEST).is_file():
        return None
    manifest = layout.read_manifest(base_model)
    return f"{manifest.name}@{manifest.version}"
