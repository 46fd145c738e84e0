"""How `tail` shows records: results, and whatever else a topic may hold."""

from __future__ import annotations

import json

import pytest

from worker.tools.tail import json_line, line
from worker.transport.interface import Record


def record(value: bytes | None) -> Record:
    return Record("t", 3, 17, 0, b"\xffkey", value, ())


def result(text: str, **review: object) -> bytes:
    return json.dumps(
        {"review_id": "r1", "label": "negative", "score": 0.98765, "review": {"text": text, **review}}
    ).encode()


def test_a_result_is_label_score_and_the_first_words():
    shown = line(record(result("I hated it.\n\n  Truly")), "text").plain
    assert shown.split() == ["negative", "0.988", "r1", "I", "hated", "it.", "Truly"]


def test_the_text_is_found_where_the_settings_say():
    value = json.dumps({"review_id": "r", "label": "x", "score": 1, "review": {"body": {"words": "here"}}}).encode()
    assert line(record(value), "body.words").plain.endswith("here")
    assert line(record(value), "text").plain.endswith("r  ")


def test_nothing_steers_the_terminal_or_is_taken_for_markup():
    shown = line(record(result("[red]\x1b[2J\x07 \u202eevil")), "text").plain
    assert shown.endswith("[red] [2J   evil")


@pytest.mark.parametrize("value", [None, b"", b"\xff\xfe", b"[1]", b"no json", b'{"label": 1}'])
def test_what_is_no_result_is_shown_with_its_place(value):
    assert line(record(value), "text").plain.startswith("3-17  ")


def test_a_json_line_is_the_value_on_one_line_digit_for_digit():
    value = b'{"review_id": "1",\r\n "n": 1.10000000000000000001, "text": "a\\nb"}'
    shown = json_line(record(value))
    assert "\n" not in shown and "1.10000000000000000001" in shown
    assert json.loads(shown)["text"] == "a\nb"


@pytest.mark.parametrize(("value", "text"), [(None, None), (b"[1]", "[1]"), (b"\xff", "\ufffd")])
def test_what_is_no_object_gets_an_envelope(value, text):
    assert json.loads(json_line(record(value))) == {
        "topic": "t", "partition": 3, "offset": 17, "key": "\ufffdkey", "value": text,
    }  # fmt: skip
