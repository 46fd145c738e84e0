"""The command line of training: options, help and how mistakes end. Every command's work is elsewhere.

Heavy libraries are imported inside the commands, so that help is instant.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from schemas import store as layout
from schemas.datafiles import DataFileError
from schemas.errors import said
from schemas.recipe import TextRecipe
from training import __version__, show, store_commands
from training.dataset import LabelColumn, parse_ranges
from training.errors import InputError
from training.options import RECIPES, FitOptions
from training.splits import parse_split
from training.store_commands import Json, Name, Store

MISTAKES = (InputError, DataFileError, layout.CheckpointError)
TRAIN_EXTRA = ("accelerate", "matplotlib", "scipy", "sklearn")
DEFAULT_LABELS = "1-2:negative,4-5:positive"


class Recipe(StrEnum):
    NOTEBOOK = "notebook"
    FAST = "fast"


class Balance(StrEnum):
    OVERSAMPLE = "oversample"
    WEIGHTS = "weights"
    NONE = "none"


Data = Annotated[list[str], typer.Option(help="CSV, JSONL or Parquet, also compressed, at any URI; repeat for more.")]
OptionalData = Annotated[list[str] | None, typer.Option(help="Labelled rows to measure on; repeat for more.")]
RatingColumn = Annotated[str, typer.Option(help="Column with the rating that --labels turns into a label.")]
LabelName = Annotated[str | None, typer.Option("--label-column", help="Column that holds the label itself.")]
Labels = Annotated[str, typer.Option(help="Rating ranges and their labels; rows in none are left out.")]
Template = Annotated[str, typer.Option(help="Text that the model reads, of the rows' columns.")]
SkipBadRows = Annotated[bool, typer.Option("--skip-bad-rows", help="Leave bad rows out instead of stopping at one.")]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Turns rated reviews into versioned checkpoints of a review classifier.",
)


@app.command()
def fit(
    data: Data,
    store: Store,
    name: Name,
    base_model: Annotated[str, typer.Option(help="Pre-trained model: a directory, or its id on the Hub.")] = (
        "google-bert/bert-base-cased"
    ),
    recipe: Annotated[
        Recipe,
        typer.Option(
            help="; ".join(
                f"{name}: {it.epochs} epochs, batch {it.batch_size}, learning rate {it.learning_rate:g}, "
                f"warm-up {it.warmup:.0%}, dropout {it.dropout}"
                for name, it in RECIPES.items()
            )
        ),
    ] = Recipe.NOTEBOOK,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training rows; the recipe's if not given.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows a step; the recipe's if not given.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(min=1e-9, help="Highest rate of AdamW; the recipe's if not given.")
    ] = None,
    max_length: Annotated[int, typer.Option(min=3, help="Most tokens the model reads of a text.")] = 150,
    seed: Annotated[int, typer.Option(help="Of split, oversampling and training.")] = 42,
    balance: Annotated[Balance, typer.Option(help="What is done for the smaller classes.")] = Balance.OVERSAMPLE,
    text_template: Template = "{text}",
    rating_column: RatingColumn = "rating",
    label_column: LabelName = None,
    group_column: Annotated[str | None, typer.Option(help="Rows with the same value stay in one part.")] = None,
    labels: Labels = DEFAULT_LABELS,
    split: Annotated[str, typer.Option(help="Percent to train, validate and test.")] = "90/5/5",
    test_data: Annotated[list[str] | None, typer.Option(help="Rows to test on instead of a part of --data.")] = None,
    max_train_rows: Annotated[int | None, typer.Option(min=2, help="Train on no more rows than this.")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate/--no-calibrate", help="Make probabilities honest.")] = True,
    skip_bad_rows: SkipBadRows = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last finished epoch of the same command.")
    ] = False,
    work_dir: Annotated[
        Path | None, typer.Option(help="Where a run keeps what --resume needs; ~/.cache/review-train if not given.")
    ] = None,
    promote: Annotated[str | None, typer.Option(help="Alias to point at the new version.")] = None,
    as_json: Json = False,
) -> None:
    """Fine-tune a pre-trained BERT on rated or labelled rows and publish it as a version.

    Example: review-train fit --data reviews.csv.gz --labels 1-2:negative,4-5:positive --store store --name reviews
    --promote production
    """
    _require_extra()
    given: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    options = FitOptions(
        data=data,
        base_model=base_model,
        label_column=_label_column(label_column, rating_column, labels),
        recipe=_text_recipe(text_template, max_length),
        hyperparameters=replace(RECIPES[recipe], **{key: value for key, value in given.items() if value is not None}),
        seed=seed,
        balance=balance.value,
        split=parse_split(split),
        group_column=group_column,
        test_data=test_data,
        max_train_rows=max_train_rows,
        calibrate=calibrate,
        skip_bad_rows=skip_bad_rows,
    )
    from training.fit import fit as run

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "review-train"
    manifest, numbers = run(options, store, name, promote, work_dir or cache, resume, show.console())
    _report(f"{store}/{name}@{manifest.version}", numbers, as_json)


@app.command("import")
def import_(
    model: Annotated[str, typer.Option(help="A classifier: a directory, or its id on the Hub.")],
    store: Store,
    name: Name,
    data: OptionalData = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=3, help="Most tokens it reads of a text; the model's own, at most 512, if not given."),
    ] = None,
    text_template: Template = "{text}",
    rating_column: RatingColumn = "rating",
    label_column: LabelName = None,
    labels: Labels = DEFAULT_LABELS,
    skip_bad_rows: SkipBadRows = False,
    as_json: Json = False,
) -> None:
    """Publish an existing Hugging Face classifier as a version; its labels are those of its id2label.

    Example: review-train import --model ./my-classifier --store store --name reviews --data held-out.csv
    """
    _require_extra()
    from training.evaluate import import_model

    started = time.monotonic()
    source = _label_column(label_column, rating_column, labels)
    _text_recipe(text_template, max_length or 3)
    manifest, numbers = import_model(
        model,
        store,
        name,
        data or [],
        source,
        text_template,
        max_length,
        skip_bad_rows,
        show.console(),
    )
    numbers["seconds"] = round(time.monotonic() - started, 1)
    _report(f"{store}/{name}@{manifest.version}", numbers, as_json)


@app.command()
def evaluate(
    checkpoint: Annotated[str, typer.Option(help="STORE/NAME@VERSION_OR_ALIAS, or a version's directory.")],
    data: Data,
    rating_column: RatingColumn = "rating",
    label_column: LabelName = None,
    labels: Labels = DEFAULT_LABELS,
    skip_bad_rows: SkipBadRows = False,
    as_json: Json = False,
) -> None:
    """Measure a version on labelled rows: accuracy, precision, recall, F1, confusion, calibration error.

    Example: review-train evaluate --checkpoint store/reviews@production --data held-out.csv --json
    """
    _require_extra()
    from training.evaluate import evaluate as run

    started = time.monotonic()
    source = _label_column(label_column, rating_column, labels)
    numbers = run(checkpoint, data, source, skip_bad_rows, show.console())
    numbers["seconds"] = round(time.monotonic() - started, 1)
    _report(checkpoint, numbers, as_json)


for command in store_commands.COMMANDS:
    app.command(command.__name__.rstrip("_"))(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point; a person's mistake is one line on standard error and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads waste most of a busy machine
    try:
        app()
    except MISTAKES as error:
        print(f"review-train: {error}", file=sys.stderr)
        sys.exit(2)


def _label_column(label_column: str | None, rating_column: str, labels: str) -> LabelColumn:
    return LabelColumn(label_column) if label_column else LabelColumn(rating_column, parse_ranges(labels))


def _text_recipe(template: str, max_length: int) -> TextRecipe:
    try:
        return TextRecipe(template=template, max_length=max_length)
    except ValidationError as error:
        raise InputError(f"--text-template {template}: {said(error.errors()[0])}") from None


def _require_extra() -> None:
    if missing := [package for package in TRAIN_EXTRA if not importlib.util.find_spec(package)]:
        needed = "pip install 'review-stream-classifier[train]'"
        raise InputError(f"{missing[0]} is not installed; this command needs the extra 'train': {needed}")


def _report(ref: str, numbers: dict[str, Any], as_json: bool) -> None:
    console = show.console(stderr=as_json)
    console.print(f"{ref} ({numbers['seconds']} s)")
    if "metrics" in numbers:
        show.print_metrics(numbers, console)
    if as_json:
        print(json.dumps({"checkpoint": ref, "metrics": None, "baseline": {}} | numbers))
