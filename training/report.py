"""The report beside a version: plots, numbers and a model card. Knows nothing of how they came about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas.manifest import CheckpointManifest, Metrics


def write_report(
    directory: Path,
    manifest: CheckpointManifest,
    numbers: dict[str, Any],
    history: Sequence[dict[str, float]] = (),
) -> None:
    """Writes metrics.json, README.md, and the plots for which there are numbers."""
    directory.mkdir(parents=True)
    (directory / "metrics.json").write_text(json.dumps({**numbers, "history": list(history)}, indent=2) + "\n")
    (directory / "README.md").write_text(_model_card(manifest, numbers, bool(history)))
    if manifest.metrics:
        _plot_confusion(directory / "confusion.png", manifest.metrics, manifest.labels)
    if history:
        _plot_history(directory / "history.png", history)


def _model_card(manifest: CheckpointManifest, numbers: dict[str, Any], trained: bool) -> str:
    recipe = manifest.recipe
    lines = [
        f"# {manifest.name}",
        "",
        f"Gives a text one of the labels {', '.join(manifest.labels)}, with a probability for each. "
        + ("Fine-tuned from" if trained else "Imported from")
        + f" `{manifest.base_model}` on {manifest.created_at:%Y-%m-%d} with review-train {manifest.code_version}.",
        "",
        f"It reads `{recipe.template}`, at most {recipe.max_length} tokens; the {recipe.truncation_side} end of longer"
        " texts is dropped. Any loader of Hugging Face models gives the same probabilities:",
        "",
        "    from transformers import pipeline",
        '    classify = pipeline("text-classification", model=DIRECTORY, truncation=True)',
    ]
    if manifest.metrics:
        lines += ["", "## Quality", "", *_quality(manifest, numbers)]
    if manifest.data:
        lines += ["", "## Data", "", "| part | rows | " + " | ".join(manifest.labels) + " |"]
        lines += ["| --- " * (2 + len(manifest.labels)) + "|"]
        for part, counts in manifest.data.class_counts.items():
            values = [part, sum(counts.values()), *counts.values()]
            lines.append("| " + " | ".join(map(str, values)) + " |")
        lines += ["", f"sha256 of the texts and labels: `{manifest.data.sha256}`."]
    lines += [
        "",
        "## Limits",
        "",
        "The numbers hold for texts like those it was measured on, not for other languages or other kinds of text.",
        "",
    ]
    return "\n".join(lines)


def _quality(manifest: CheckpointManifest, numbers: dict[str, Any]) -> list[str]:
    metrics = manifest.metrics
    assert metrics
    lines = ["| on held-out rows | accuracy | macro F1 | calibration error |", "| --- | --- | --- | --- |"]
    lines.append(f"| this version | {metrics.accuracy:.4f} | {metrics.macro_f1:.4f} | {metrics.ece:.4f} |")
    if raw := manifest.metrics_uncalibrated:
        lines.append(f"| before calibration | {raw.accuracy:.4f} | {raw.macro_f1:.4f} | {raw.ece:.4f} |")
    for baseline, found in numbers.get("baseline", {}).items():
        lines.append(f"| {baseline.replace('_', ' ')} | {found['accuracy']:.4f} | {found['macro_f1']:.4f} | |")
    lines += ["", "| label | precision | recall | F1 | rows |", "| --- | --- | --- | --- | --- |"]
    for label, found in metrics.per_label.items():
        lines.append(f"| {label} | {found.precision:.4f} | {found.recall:.4f} | {found.f1:.4f} | {found.support} |")
    return lines


def _plot_history(file: Path, history: Sequence[dict[str, float]]) -> None:
    figure, (left, right) = _figure(2)
    epochs = [entry["epoch"] for entry in history]
    for axes, series, title in (
        (left, ("train_loss", "validation_loss"), "Loss"),
        (right, ("validation_accuracy",), "Accuracy"),
    ):
        for name in series:
            axes.plot(epochs, [entry[name] for entry in history], marker="o", label=name.replace("_", " "))
        axes.set(title=title, xlabel="epoch", xticks=epochs)
        axes.legend()
    figure.savefig(file, dpi=120, metadata={"Software": None})


def _plot_confusion(file: Path, metrics: Metrics, labels: Sequence[str]) -> None:
    figure, (axes,) = _figure(1)
    counts = np.array(metrics.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        shade = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count}\n{shares[row, column]:.1%}", ha="center", va="center", color=shade)
    every = range(len(labels))
    axes.set(xticks=every, yticks=every, xticklabels=labels, yticklabels=labels, xlabel="predicted", ylabel="true")
    axes.set_title(f"Accuracy {metrics.accuracy:.2%}")
    figure.savefig(file, dpi=120, metadata={"Software": None})


def _figure(plots: int) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * plots, 4), layout="constrained")
    return figure, figure.subplots(1, plots, squeeze=False)[0]
