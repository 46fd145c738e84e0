"""Data files as rows: CSV, JSONL and Parquet, each optionally compressed, at any fsspec URI.

Knows nothing of what the columns mean. Every row comes with the place it was read from, for error messages.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


class DataFileError(Exception):
    """A data file or line that cannot be read: one line naming file, line and cause."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """`number` is that of the line it begins on, in a Parquet file that of the row, from 1 on."""

    file: str
    number: int

    @property
    def place(self) -> str:
        """Where to look for it, for messages."""
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Row(_Placed):
    """One row. `json` is a JSONL line as it came."""

    values: dict[str, Any]
    json: bytes | None = None


@dataclass(frozen=True, slots=True)
class BadRow(_Placed):
    """A line that is no row, and why."""

    cause: str


def read_rows(path: str) -> Iterator[Row | BadRow]:
    """Rows of a file in order, `-` being JSONL from standard input. DataFileError where it cannot be read."""
    if path == "-":
        yield from _jsonl("stdin", io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="surrogateescape"))
        return
    suffix = _suffix(path)
    if suffix not in FORMATS:
        raise DataFileError(f"{path}: unknown format; expected one of {', '.join(FORMATS)}, optionally compressed")
    try:
        if suffix == ".parquet":
            yield from _parquet(path)
        else:
            with fsspec.open(path, "rb", compression="infer") as raw:
                lines = io.TextIOWrapper(raw, encoding="utf-8-sig", errors="surrogateescape", newline="")
                yield from (_csv(path, lines, suffix) if suffix in (".csv", ".tsv") else _jsonl(path, lines))
    except Exception as error:  # every compression and filesystem raises its own
        raise DataFileError(f"{path}: {_cause(error)}") from None


def _csv(path: str, lines: io.TextIOWrapper, suffix: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(lines, delimiter="\t" if suffix == ".tsv" else ",", strict=True)
    header: list[str] | None = None
    while True:
        first_line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield BadRow(path, first_line, str(error))
            continue
        if fields is None:
            return
        if header is None:
            header = fields
        elif fields:
            if len(fields) != len(header):
                yield BadRow(path, first_line, f"{len(fields)} fields, the header has {len(header)}")
            elif any(
                "\udc80" <= character <= "\udcff" for field in fields for character in field if not field.isascii()
            ):
                yield BadRow(path, first_line, "not UTF-8")
            else:
                yield Row(path, first_line, dict(zip(header, fields, strict=True)))


def _jsonl(path: str, lines: io.TextIOWrapper) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            line.encode()
            values = json.loads(line, parse_constant=_refuse_constant)
        except UnicodeEncodeError:
            yield BadRow(path, number, "not UTF-8")
        except ValueError as error:
            yield BadRow(path, number, f"invalid JSON: {error}")
        else:
            if isinstance(values, dict):
                yield Row(path, number, values, line.strip().encode())
            else:
                yield BadRow(path, number, "not a JSON object")


def _parquet(path: str) -> Iterator[Row]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            "Parquet needs the extra 'parquet': pip install 'review-stream-classifier[parquet]'"
        ) from None
    with fsspec.open(path, "rb", compression="infer") as raw:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(raw).iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(path, number, values)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    for compression in (".gz", ".bz2", ".xz", ".zst", ".zip"):
        name = name.removesuffix(compression)
    return "." + name.rsplit(".", 1)[-1] if "." in name else ""


def _cause(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
