"""What `produce` sends and when."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import typer

from schemas.datafiles import DataFileError
from worker.settings import KafkaSettings
from worker.tools.events import skipped
from worker.tools.produce import ConfigurationError, key_of, only_input, paced, parse_rate, read_file


class Clock:
    """Time that passes only by sleeping and by what the test says that sending took."""

    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds


def test_each_item_has_its_time_however_long_the_others_took():
    clock, sent = Clock(), []
    for number in paced(iter(range(10)), 10.0, clock.now, clock.sleep):
        sent.append(clock.time - 100.0)
        clock.time += 0.35 if number == 2 else 0.01  # one slow send: those behind it follow at once, then on time
    assert sent == pytest.approx([0.0, 0.1, 0.2, 0.55, 0.56, 0.57, 0.6, 0.7, 0.8, 0.9])


def test_without_a_rate_nothing_waits():
    clock = Clock()
    assert list(paced(iter("abc"), None, clock.now, clock.sleep)) == ["a", "b", "c"]
    assert clock.time == 100.0


@pytest.mark.parametrize(("text", "rate"), [("500", 500.0), ("0.5/s", 0.5), ("1e3/s", 1000.0)])
def test_rates(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "-3/s", "fast", "nan", "inf", "5/min", ""])
def test_what_is_no_rate(text):
    with pytest.raises(typer.BadParameter, match="not a rate"):
        parse_rate(text)


def test_the_key_is_the_product_else_the_review():
    assert key_of(b'{"review_id": "r1", "product_id": "p1"}') == b"p1"
    assert key_of(b'{"review_id": "r1", "product_id": 7}') == b"7"
    assert key_of(b'{"review_id": "r1", "product_id": null}') == b"r1"
    assert key_of('{"review_id": "ré"}'.encode()) == "ré".encode()


def write(tmp_path: Path, content: bytes, name: str = "r.jsonl") -> str:
    (tmp_path / name).write_bytes(content)
    return str(tmp_path / name)


def read(path: str, limit: int = 1000, *, raw=False, loop=False, skip_bad_rows=False, bad=None):
    return read_file(path, limit, raw=raw, loop=loop, skip_bad_rows=skip_bad_rows, bad=[] if bad is None else bad)


def test_rows_become_events(tmp_path):
    path = write(tmp_path, b"id,text,product_id\n7,Good,\n8,Bad,p\n", "r.csv")
    events = list(read(path))
    assert [(event.place, event.key) for event in events] == [(f"{path}:2", b"7"), (f"{path}:3", b"p")]
    assert json.loads(events[0].value) == {"review_id": "7", "id": "7", "text": "Good"}


def test_what_is_not_a_number_is_absent(tmp_path):
    path = write(tmp_path, b"id,text,rating\n7,Good,nan\n8,Bad,inf\n9,Fine,4\n", "r.csv")
    ratings = [json.loads(event.value, parse_constant=pytest.fail).get("rating") for event in read(path)]
    assert ratings == [None, None, 4]


def test_a_parquet_file_s_missing_numbers_are_absent(tmp_path):
    nan, path = float("nan"), str(tmp_path / "r.parquet")
    rows = [{"id": "7", "text": "Good", "rating": nan, "aspects": {"price": nan, "marks": [1.0, nan]}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (event,) = read(path)
    assert json.loads(event.value, parse_constant=pytest.fail) == {
        "review_id": "7", "id": "7", "text": "Good", "aspects": {"price": None, "marks": [1.0, None]},
    }  # fmt: skip


def test_bad_rows_past_the_tenth_are_counted():
    assert list(skipped(["a", "b"])) == ["skipped a", "skipped b"]
    assert list(skipped(["a"] * 12))[9:] == ["skipped a", "and 2 more"]


def test_raw_lines_stay_as_they_are(tmp_path):
    path = write(tmp_path, b'{"a": 1}\r\n\xff\n\nno json')
    assert [(event.key, event.value) for event in read(path, raw=True)] == [
        (None, b'{"a": 1}\r'), (None, b"\xff"), (None, b""), (None, b"no json"),
    ]  # fmt: skip


def test_a_row_too_large_for_the_topic_is_a_bad_row(tmp_path):
    path = write(tmp_path, b'{"review_id": "1", "text": "a"}\n{"review_id": "2", "text": "' + b"x" * 900 + b'"}\n')
    with pytest.raises(DataFileError, match=r"r\.jsonl:2: 1,?0\d\d bytes, the topic takes 1,000"):
        list(read(path))
    bad: list[str] = []
    assert len(list(read(path, skip_bad_rows=True, bad=bad))) == 1
    assert len(bad) == 1


def test_a_loop_begins_again_and_names_a_bad_row_once(tmp_path):
    path = write(tmp_path, b'{"review_id": "1", "text": "a"}\n]\n{"review_id": "2", "text": "b"}\n')
    bad: list[str] = []
    events = read(path, loop=True, skip_bad_rows=True, bad=bad)
    assert [next(events).key for _ in range(7)] == [b"1", b"2", b"1", b"2", b"1", b"2", b"1"]
    assert len(bad) == 1


def test_a_loop_over_nothing_ends(tmp_path):
    assert list(read(write(tmp_path, b""), loop=True)) == []


def test_a_missing_file_is_named(tmp_path):
    for raw in (False, True):
        with pytest.raises(DataFileError, match=r"gone\.jsonl: (?i:no such file)"):
            list(read(str(tmp_path / "gone.jsonl"), raw=raw))


def test_with_several_input_topics_one_must_be_named():
    assert only_input(KafkaSettings(input_topic=["a"])) == "a"
    with pytest.raises(ConfigurationError, match="--topic"):
        only_input(KafkaSettings(input_topic=["a", "b"]))
