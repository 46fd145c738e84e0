"""Data files → labelled examples. Knows nothing of splits, tokens or models."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from schemas.datafiles import BadRow, Row, read_rows
from schemas.recipe import TextRecipe, render
from training.errors import InputError

MOST_LABELS = 50
BAD_ROWS_SHOWN = 5
_RANGE = re.compile(r"^(-?\d+(?:\.\d+)?)(?:-(-?\d+(?:\.\d+)?))?:(.+)$")


class Example(NamedTuple):
    """One labelled text as the model reads it; `label` indexes the labels, `group` is None without one."""

    text: str
    label: int
    group: str | None = None


@dataclass(frozen=True, slots=True)
class LabelColumn:
    """Which column gives a row's label: its own value, or the range that a rating falls into."""

    column: str
    ranges: tuple[tuple[float, float, str], ...] = ()

    def label(self, value: Any) -> str | None:
        """The label of a value, None where it gives none (empty, or a rating outside all ranges). Raises ValueError."""
        if is_absent(value):
            return None
        if not self.ranges:
            return str(value)
        try:
            rating = float(value)
        except (TypeError, ValueError):
            rating = math.nan
        if math.isnan(rating):
            raise ValueError(f"{self.column} is not a number")
        return next((label for low, high, label in self.ranges if low <= rating <= high), None)


@dataclass(frozen=True, slots=True)
class Dataset:
    """What the files hold: examples in order, their labels, and how many rows have none: because there is no value, or
    because it is in none of the ranges."""

    files: list[str]
    labels: list[str]
    examples: list[Example]
    unlabelled: int
    outside_ranges: int
    bad_rows: list[BadRow]

    @property
    def sha256(self) -> str:
        """Digest of the (text, label) pairs in order."""
        sha = hashlib.sha256()
        for example in self.examples:
            sha.update(json.dumps([example.text, self.labels[example.label]]).encode() + b"\n")
        return sha.hexdigest()

    def counts(self, examples: Sequence[Example]) -> dict[str, int]:
        """Examples of each label."""
        found = Counter(example.label for example in examples)
        return {label: found[index] for index, label in enumerate(self.labels)}


class _NoColumn(ValueError):
    """A row lacks a column that is read: in a file with a header, all of them do."""


def is_absent(value: Any) -> bool:
    """Whether a cell is empty: Parquet files often hold NaN for null."""
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def parse_ranges(text: str) -> tuple[tuple[float, float, str], ...]:
    """Ranges of `1-2:negative,4-5:positive`, both ends included."""
    ranges = []
    for part in text.split(","):
        match = _RANGE.match(part.strip())
        if not match:
            raise InputError(f"--labels {text}: {part.strip()!r} is no range such as 1-2:negative")
        low = float(match[1])
        ranges.append((low, float(match[2] or low), match[3].strip()))
    for low, high, label in ranges:
        if high < low or any(low <= other[1] and other[0] <= high for other in ranges if other != (low, high, label)):
            raise InputError(f"--labels {text}: {label}'s range is reversed or overlaps another")
    return tuple(ranges)


def load(
    files: Sequence[str],
    label_column: LabelColumn,
    recipe: TextRecipe,
    *,
    group_column: str | None = None,
    labels: Sequence[str] | None = None,
    skip_bad_rows: bool = False,
) -> Dataset:
    """Labelled rows of all files, in order. InputError where a file has no rows or lacks a column, and at the first row
    that cannot be read unless they are skipped.

    `labels` fixes the labels and their order; without it they are those of the ranges, or those found, sorted.
    """
    pairs: list[tuple[str, str, str | None]] = []
    bad: list[BadRow] = []
    unlabelled = outside_ranges = 0
    for file in files:
        absent, empty = set(recipe.fields), True
        for row in read_rows(file):
            empty = False
            try:
                if isinstance(row, BadRow):
                    raise ValueError(row.cause)
                absent -= row.values.keys()
                value = _field(row, label_column.column)
                label = label_column.label(value)
                text = _text(row, recipe)
                group = None if group_column is None else _field(row, group_column)
            except ValueError as error:
                no_column = isinstance(error, _NoColumn)
                if not skip_bad_rows or (no_column and isinstance(row, Row) and row.json is None):
                    advice = "" if no_column else "; --skip-bad-rows leaves such rows out"
                    raise InputError(f"{row.place}: {error}{advice}") from None
                bad.append(BadRow(row.file, row.number, str(error)))
                continue
            if label is not None:
                pairs.append((text, label, None if is_absent(group) else str(group)))
            elif is_absent(value):
                unlabelled += 1
            else:
                outside_ranges += 1
        if empty:
            raise InputError(f"{file}: no rows")
        if absent - {"text"}:
            raise InputError(f"{file}: no column {' or '.join(sorted(absent))}, which the text template reads")
    names = _names(pairs, label_column, labels, files)
    index = {name: number for number, name in enumerate(names)}
    examples = [Example(text, index[label], group) for text, label, group in pairs]
    return Dataset(list(files), names, examples, unlabelled, outside_ranges, bad)


def _field(row: Row, column: str) -> Any:
    if column not in row.values:
        raise _NoColumn(f"no column {column!r}; there are {', '.join(map(str, row.values))}")
    return row.values[column]


def _text(row: Row, recipe: TextRecipe) -> str:
    text = _field(row, "text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("text is blank" if text is None or isinstance(text, str) else "text is no string")
    return render(recipe, row.values)


def _names(
    pairs: list[tuple[str, str, str | None]],
    label_column: LabelColumn,
    labels: Sequence[str] | None,
    files: Sequence[str],
) -> list[str]:
    found = {label for _, label, _ in pairs}
    where = f"{', '.join(files)}: column {label_column.column!r}"
    if labels is not None:
        if unknown := sorted(found - set(labels)):
            raise InputError(f"{where} holds labels that the checkpoint has not: {', '.join(unknown[:5])}")
        if not found:
            raise InputError(f"{where} labels no row")
        return list(labels)
    names = list(dict.fromkeys(label for _, _, label in label_column.ranges)) or sorted(found)
    if len(found) < 2:
        raise InputError(f"{where} gives {'only the label ' + found.pop() if found else 'no label'}; two are needed")
    if missing := [name for name in names if name not in found]:
        raise InputError(f"{where} gives no row the label {', '.join(missing)}")
    if len(names) > MOST_LABELS:
        raise InputError(f"{where} has {len(names)} different values; is it the label column?")
    return names
