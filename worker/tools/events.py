"""Rows of a data file as review events, the way a producer would send them. Knows no Kafka and no model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from schemas.datafiles import BadRow, DataFileError, Row, read_rows
from schemas.review import ReviewEvent


def read_events(path: str, *, skip_bad_rows: bool, bad: list[str]) -> Iterator[tuple[Row, bytes]]:
    """Each row with its event as JSON. A bad row is added to `bad` in words, or raises DataFileError."""
    for row in read_rows(path):
        if isinstance(row, BadRow):
            note_bad_row(f"{row.place}: {row.cause}", skip_bad_rows=skip_bad_rows, bad=bad)
            continue
        try:
            event = event_of(row)
        except UnicodeEncodeError:
            note_bad_row(
                f"{row.place}: half of a surrogate pair, no Unicode text", skip_bad_rows=skip_bad_rows, bad=bad
            )
        else:
            yield row, event


def note_bad_row(problem: str, *, skip_bad_rows: bool, bad: list[str]) -> None:
    """Adds the problem to `bad`, or raises DataFileError with it and the way on."""
    if not skip_bad_rows:
        raise DataFileError(f"{problem} (--skip-bad-rows goes on without such rows)")
    bad.append(problem)


def skipped(bad: Sequence[str], shown: int = 10) -> Iterator[str]:
    """What to tell of the bad rows: the first, and how many more."""
    yield from (f"skipped {problem}" for problem in bad[:shown])
    if len(bad) > shown:
        yield f"and {len(bad) - shown:,} more"


def event_of(row: Row) -> bytes:
    """The row as a review event. A JSONL line with an id goes as it came; elsewhere empty cells and NaN are absent (in
    nested values null), a missing `review_id` is the `id`, else the row's place, and a CSV's rating is a number where
    it can be."""
    if row.json is not None and "review_id" in row.values:
        return row.json
    values = dict(row.values)
    if isinstance(values.get("rating"), str):
        with suppress(ValueError):
            values["rating"] = float(values["rating"])
    event = {name: value for name, found in values.items() if (value := _finite(found)) not in (None, "")}
    if "review_id" not in event:
        event = {"review_id": str(event.get("id", row.place)), **event}
    for name in ReviewEvent.model_fields.keys() & event.keys():
        if hasattr(event[name], "isoformat"):
            event[name] = event[name].isoformat()
    return json.dumps(event, ensure_ascii=False, default=str, allow_nan=False).encode()


def _finite(value: Any) -> Any:
    """The value with None for what JSON has no number for: NaN is how Parquet files write that there is none."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {name: _finite(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(member) for member in value]
    return value
