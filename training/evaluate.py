"""`evaluate` and `import`: an existing classifier measured on labelled rows, or made a version. Never trains."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from schemas import store as layout
from schemas.manifest import CheckpointManifest, DataFingerprint, Metrics
from schemas.recipe import TextRecipe
from training import metrics as quality
from training.dataset import LabelColumn, load
from training.fit import draft, fingerprint, report_left_out, save_version
from training.models import Classifier, load_classifier
from training.publish import prepare
from training.show import progress_bar


def evaluate(
    ref: str, files: Sequence[str], label_column: LabelColumn, skip_bad_rows: bool, console: Console
) -> dict[str, Any]:
    """Numbers of a verified checkpoint on every labelled row of the files."""
    with tempfile.TemporaryDirectory(prefix="review-train-") as cache:
        with console.status("verifying the checkpoint"):
            checkpoint = layout.fetch(ref, Path(cache))
        classifier = load_classifier(str(checkpoint.directory))
        recipe, labels = checkpoint.manifest.recipe, checkpoint.manifest.labels
        return measure(classifier, recipe, labels, files, label_column, skip_bad_rows, console)[0]


def import_model(
    model: str,
    store: str,
    name: str,
    files: Sequence[str],
    label_column: LabelColumn,
    template: str,
    max_length: int | None,
    skip_bad_rows: bool,
    console: Console,
) -> tuple[CheckpointManifest, dict[str, Any]]:
    """Publishes an existing classifier, its labels those of its id2label; measured where files are given."""
    prepare(store, name)
    classifier = load_classifier(model)
    recipe = TextRecipe(template=template, max_length=max_length or classifier.usual_length)
    classifier.require_length(recipe.max_length)
    manifest = draft(name, classifier.labels, recipe, model)
    numbers: dict[str, Any] = {}
    if files:
        numbers, data = measure(classifier, recipe, manifest.labels, files, label_column, skip_bad_rows, console)
        update = {"metrics": Metrics.model_validate(numbers["metrics"]), "data": data}
        manifest = manifest.model_copy(update=update)
    return save_version(classifier, store, manifest, numbers), numbers


def measure(
    classifier: Classifier,
    recipe: TextRecipe,
    labels: list[str],
    files: Sequence[str],
    label_column: LabelColumn,
    skip_bad_rows: bool,
    console: Console,
) -> tuple[dict[str, Any], DataFingerprint]:
    """Metrics and baseline on every labelled row of the files, and what the rows are."""
    with console.status("reading data"):
        dataset = load(files, label_column, recipe, labels=labels, skip_bad_rows=skip_bad_rows)
        report_left_out(dataset, console)
        tokens = classifier.tokens(recipe, [example.text for example in dataset.examples])
    truth = np.array([example.label for example in dataset.examples])
    with progress_bar(console) as progress:
        task = progress.add_task("classifying", total=len(tokens), note="")
        logits = classifier.logits(tokens, lambda rows: progress.advance(task, rows))
    measured = quality.measure(quality.softmax(logits), truth, labels)
    baseline = {"majority": quality.majority(list(dataset.counts(dataset.examples).values()), truth)}
    return {"metrics": measured.model_dump(), "baseline": baseline}, fingerprint(dataset)
