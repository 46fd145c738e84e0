"""Rows of data files, and what is said of those that cannot be read."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.datafiles import BadRow, DataFileError, Row, read_rows

CSV = '\ufeffid,text\n1,plain\n2,"two\nlines, quoted"\n\n3,last\n'.encode()
CSV_ROWS = [
    (2, {"id": "1", "text": "plain"}),
    (3, {"id": "2", "text": "two\nlines, quoted"}),
    (6, {"id": "3", "text": "last"}),
]


def write(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("suffix", "compress"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
def test_csv_rows_know_the_line_they_start_on(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    file = write(tmp_path / f"rows.csv{suffix}", compress(CSV))
    assert list(read_rows(file)) == [Row(file, line, values) for line, values in CSV_ROWS]


def test_tsv(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.tsv", b"id\ttext\n1\ta, b\n")
    assert list(read_rows(file)) == [Row(file, 2, {"id": "1", "text": "a, b"})]


def test_bad_csv_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.csv", b'id,text\n1,a,b\n2,caf\xe9\n3,ok\n4,"never closed\n5,lost\n')
    assert list(read_rows(file)) == [
        BadRow(file, 2, "3 fields, the header has 2"),
        BadRow(file, 3, "not UTF-8"),
        Row(file, 4, {"id": "3", "text": "ok"}),
        BadRow(file, 5, "unexpected end of data"),
    ]


def test_bad_jsonl_lines_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    file = write(
        tmp_path / "rows.jsonl", b'{"id": 1}\n\n[2]\n{"id": NaN}\n{"id":\n"\xff"\n{"id": 6, "text": "\xc3\xa9"}\n'
    )
    rows = list(read_rows(file))
    assert [row.place for row in rows] == [f"{file}:{line}" for line in (1, 3, 4, 5, 6, 7)]
    assert [row.cause if isinstance(row, BadRow) else row.values for row in rows] == [
        {"id": 1},
        "not a JSON object",
        "invalid JSON: NaN is not JSON",
        "invalid JSON: Expecting value: line 2 column 1 (char 7)",
        "not UTF-8",
        {"id": 6, "text": "é"},
    ]


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"text": ["a", None], "rating": [1, 5]}), file)
    assert list(read_rows(file)) == [
        Row(file, 1, {"text": "a", "rating": 1}),
        Row(file, 2, {"text": None, "rating": 5}),
    ]


@pytest.mark.parametrize(
    ("name", "content", "cause"),
    [
        ("missing.csv", None, "no such file"),
        ("rows.xlsx", b"", "unknown format"),
        ("rows", b"", "unknown format"),
        ("rows.csv.gz", b"not gzip at all", "Not a gzipped file"),
        ("rows.csv.gz", gzip.compress(CSV * 99, mtime=0)[:-20], "ended before"),
        ("rows.jsonl.gz", gzip.compress(CSV * 99, mtime=0)[:30] + b"\xff" * 40, ""),
        ("rows.csv.bz2", b"BZh9 broken", ""),
        ("rows.csv.xz", b"broken", ""),
        ("rows.csv.zip", b"broken", ""),
        ("rows.parquet", b"broken", ""),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes | None, cause: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataFileError) as raised:
        list(read_rows(str(path)))
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and cause in message and "\n" not in message
