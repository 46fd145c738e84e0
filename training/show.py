"""What a person sees: versions of a store, a manifest, metrics, progress. Loads no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from schemas import store as layout
from schemas.manifest import CheckpointManifest
from training import publish


def console(stderr: bool = True) -> Console:
    """Where a person reads: plain lines that are never broken, nothing in a label or path taken for markup."""
    return Console(stderr=stderr, soft_wrap=True, markup=False, highlight=False)


def describe_store(store: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """One entry a version: name, version, created_at, base_model, accuracy, macro_f1, aliases."""
    rows = []
    for name in names:
        aliases = layout.read_aliases(store, name)
        for version in publish.versions(store, name):
            manifest = layout.read_manifest(f"{store}/{name}/{version}")
            rows.append(
                {
                    "name": name,
                    "version": version,
                    "created_at": f"{manifest.created_at:%Y-%m-%d %H:%M}",
                    "base_model": manifest.base_model,
                    "accuracy": manifest.metrics and manifest.metrics.accuracy,
                    "macro_f1": manifest.metrics and manifest.metrics.macro_f1,
                    "aliases": [alias for alias, entry in aliases.items() if entry.version == version],
                }
            )
    return rows


def print_versions(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """The entries of `describe_store` as a table."""
    table = Table(Column("version", no_wrap=True), "made", "accuracy", "macro F1", "aliases", "base model")
    for row in rows:
        numbers = (f"{row[key]:.4f}" if row[key] is not None else "" for key in ("accuracy", "macro_f1"))
        version = f"{row['name']}@{row['version']}"
        table.add_row(version, row["created_at"], *numbers, ", ".join(row["aliases"]), row["base_model"])
    console.print(table if rows else "no versions")


def print_manifest(manifest: CheckpointManifest, console: Console) -> None:
    """A manifest as lines and tables."""
    table = Table(show_header=False, box=None)
    content = manifest.model_dump(mode="json", exclude={"files", "metrics", "metrics_uncalibrated", "format"})
    for name, value in _flat(content):
        table.add_row(name, value)
    for file, digest in manifest.files.items():
        table.add_row(file, f"{digest.bytes:,} bytes, sha256 {digest.sha256[:16]}…")
    console.print(table)
    if manifest.metrics:
        print_metrics({"metrics": manifest.metrics.model_dump()}, console)


def print_metrics(numbers: dict[str, Any], console: Console) -> None:
    """Quality by label, confusion, and what the baselines score."""
    metrics = numbers["metrics"]
    table = Table(
        "label", "precision", "recall", "F1", "rows", *(f"taken for {label}" for label in metrics["per_label"])
    )
    for (label, found), confused in zip(metrics["per_label"].items(), metrics["confusion"], strict=True):
        shares = (f"{found[key]:.4f}" for key in ("precision", "recall", "f1"))
        table.add_row(label, *shares, str(found["support"]), *map(str, confused))
    console.print(table)
    console.print(f"{_brief(metrics)}, calibration error {metrics['ece']:.4f}")
    for baseline, found in numbers.get("baseline", {}).items():
        console.print(f"  {baseline.replace('_', ' ')}: {_brief(found)}")


def progress_bar(console: Console) -> Progress:
    """A bar with what is being done, how far it is and how long it will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=console
    )


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _brief(found: dict[str, float]) -> str:
    return f"accuracy {found['accuracy']:.4f}, macro F1 {found['macro_f1']:.4f}"
