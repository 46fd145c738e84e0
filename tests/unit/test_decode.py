"""The only judge of input: what is rejected and why, what is carried, and that no error repeats the review."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import RejectReason as Reason
from schemas.recipe import TextRecipe
from tests.fakes.works import make_work
from worker.decode import Decoder
from worker.settings import FieldNames, InputSettings
from worker.work import Work

CANARY = "canary-in-a-coal-mine"


def decode(value: bytes | None, recipe: TextRecipe | None = None, **settings: Any) -> Work:
    work = make_work(value)
    Decoder(InputSettings(**settings), recipe or TextRecipe()).decode([work])
    return work


def event(**changes: Any) -> bytes:
    fields = {"review_id": "r-1", "text": "Good.", **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def raw(rest: bytes) -> bytes:
    return b'{"review_id": 1, "text": "Good.", ' + rest + b"}"


@pytest.mark.parametrize(
    ("value", "reason", "error"),
    [
        (None, Reason.NULL_VALUE, "the value is null"),
        (b"", Reason.INVALID_JSON, "EOF"),
        (b"{", Reason.INVALID_JSON, "line 1 column 1"),
        (b"good product", Reason.INVALID_JSON, "line 1"),
        (event() + b"{}", Reason.INVALID_JSON, "trailing"),
        (raw(b'"x": ' + b"[" * 5000 + b"]" * 5000), Reason.INVALID_JSON, "recursion"),
        (raw(b'"x": ' + b"9" * 5000), Reason.INVALID_JSON, "number out of range"),
        (raw(b'"x": "\\ud800"'), Reason.INVALID_JSON, "hex escape"),
        (raw(b'"rating": NaN'), Reason.INVALID_JSON, "NaN or Infinity"),
        (raw(b'"x": [{"y": -Infinity}]'), Reason.INVALID_JSON, "NaN or Infinity"),
        (b'\xff{"review_id": 1, "text": "Good."}', Reason.NOT_UTF8, "byte 0: invalid start byte"),
        (raw(b'"x": "\xff"'), Reason.NOT_UTF8, "byte 40: invalid start byte"),
        (raw(b'"\xc3(": 1'), Reason.NOT_UTF8, "invalid continuation byte"),
        (event().decode().encode("utf-16"), Reason.NOT_UTF8, "byte 0"),
        (b"[]", Reason.NOT_AN_OBJECT, "not an object"),
        (b'"text"', Reason.NOT_AN_OBJECT, "not an object"),
        (b"null", Reason.NOT_AN_OBJECT, "not an object"),
        (event(review_id=...), Reason.INVALID_REVIEW_ID, "review_id: Field required"),
        (event(review_id=""), Reason.INVALID_REVIEW_ID, "review_id: must not be empty"),
        (event(review_id=None), Reason.INVALID_REVIEW_ID, "review_id: "),
        (event(review_id=True), Reason.INVALID_REVIEW_ID, "review_id: "),
        (event(review_id=1.0), Reason.INVALID_REVIEW_ID, "review_id: "),
        (event(review_id=["r"]), Reason.INVALID_REVIEW_ID, "review_id: "),
        (event(text=...), Reason.INVALID_TEXT, "text: Field required"),
        (event(text=""), Reason.INVALID_TEXT, "text: must not be blank"),
        (event(text=" \t\u00a0\n"), Reason.INVALID_TEXT, "text: must not be blank"),
        (event(text=None), Reason.INVALID_TEXT, "text: Input should be a valid string"),
        (event(text=5), Reason.INVALID_TEXT, "text: Input should be a valid string"),
        (event(schema_version="2.0"), Reason.UNSUPPORTED_SCHEMA_VERSION, "schema_version: major version must be 1"),
        (event(schema_version="10.0"), Reason.UNSUPPORTED_SCHEMA_VERSION, "schema_version: major"),
        (event(schema_version=1), Reason.UNSUPPORTED_SCHEMA_VERSION, "schema_version: "),
        (event(text="", rating="x"), Reason.INVALID_TEXT, "text: "),
    ],
)
def test_bad_input_is_rejected_with_its_reason(value: bytes | None, reason: Reason, error: str) -> None:
    work = decode(value)
    assert work.rejection is not None
    assert (work.rejection.reason, work.rejection.stage) == (reason, "decode")
    assert error in work.rejection.error
    assert work.invalid_fields == (), "only what is carried is counted"
    assert "\n" not in work.rejection.error


def test_one_bad_record_disturbs_no_other() -> None:
    works = [make_work(value) for value in (event(), b"{", None, event(review_id=7, text="Bad."))]
    Decoder(InputSettings(), TextRecipe()).decode(works)
    assert [work.rejection is None for work in works] == [True, False, False, True]
    assert [work.review_id for work in works] == ["r-1", "", "", "7"]


@pytest.mark.parametrize("number", [0, -5, 2**63, 10**400])
def test_a_whole_number_is_taken_as_the_text_of_it(number: int) -> None:
    assert decode(event(review_id=number)).review_id == str(number)


@pytest.mark.parametrize("version", ["1", "1.0", "1.99", "1.0-beta"])
def test_minor_versions_are_all_welcome(version: str) -> None:
    assert decode(event(schema_version=version)).rejection is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("title", 5), ("title", ["x"]), ("rating", "5"), ("rating", 0), ("rating", 5.5), ("rating", True),
        ("product_id", {}), ("author_id", 7), ("created_at", "yesterday"), ("created_at", 1_700_000_000),
        ("created_at", "2024-05-06T07:08:09"), ("language", False),
    ],
)  # fmt: skip
def test_a_wrong_type_in_an_optional_field_is_carried_and_counted(name: str, value: Any) -> None:
    whole = event(**{name: value, "product_id": "p"} if name != "product_id" else {name: value})
    work = decode(whole, TextRecipe(template="{title}|{text}"))
    assert work.rejection is None
    assert work.invalid_fields == (name,)
    assert work.review == whole
    assert work.text == "|Good."


def test_every_wrong_field_is_counted_once() -> None:
    work = decode(event(rating=9, title=[], created_at="never"))
    assert work.invalid_fields == ("created_at", "rating", "title")
    assert work.created_at is None


@pytest.mark.parametrize(
    "fields",
    [
        {"title": None, "rating": None, "created_at": None},
        {"title": "T", "rating": 5, "product_id": "p", "author_id": "a", "language": "de"},
        {"rating": 1.5, "more": {"text": [None, 1e308]}},
    ],
)
def test_right_and_absent_optional_fields_are_not_counted(fields: dict[str, Any]) -> None:
    work = decode(event(**fields))
    assert (work.rejection, work.invalid_fields) == (None, ())


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("2024-05-06T07:08:09Z", 1714979289),
        ("2024-05-06T09:08:09.5+02:00", 1714979289.5),
        ("0001-01-01T00:00:00+14:00", -62135647200),
    ],
)
def test_created_at_is_read_as_seconds(written: str, seconds: float) -> None:
    assert decode(event(created_at=written)).created_at == seconds


@pytest.mark.parametrize("text", ["NaN", "-Infinity and NaN", 'she said "NaN"', "Infinity\\", "NaN" * 1000])
def test_the_words_nan_and_infinity_may_stand_in_a_text(text: str) -> None:
    assert decode(event(text=text)).text == text
    assert decode(event(more={text: [text]})).rejection is None


def test_a_schema_registry_s_prefix_is_no_part_of_the_review() -> None:
    work = decode(b"\0\0\0\1\xff" + event())
    assert (work.rejection, work.text, work.review) == (None, "Good.", event())
    for short in (b"\0", b"\0\0\0\0", b"\0\0\0\0\1"):
        assert decode(short).rejection is not None


def test_the_model_reads_what_the_recipe_says() -> None:
    recipe = TextRecipe(template="{title}. {text}")
    assert decode(event(title="Fine"), recipe).text == "Fine. Good."
    with pytest.raises(ValueError, match="colour"):
        Decoder(InputSettings(), TextRecipe(template="{text} {colour}"))


def test_fields_are_found_under_other_names_and_below_others() -> None:
    fields = FieldNames(review_id="meta.id", text="body.content", rating="meta.stats.stars", created_at="at")
    value = {"meta": {"id": 5, "stats": {"stars": 4}}, "body": {"content": "Good."}, "at": "2024-05-06T07:08:09Z"}
    work = decode(json.dumps(value).encode(), fields=fields)
    assert (work.rejection, work.invalid_fields) == (None, ())
    assert (work.review_id, work.text, work.created_at) == ("5", "Good.", 1714979289)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"id": 1, "text": "under its usual name"}, Reason.INVALID_TEXT),
        ({"id": 1, "body": "Good."}, Reason.INVALID_TEXT),
        ({"id": 1, "body": ["Good."]}, Reason.INVALID_TEXT),
        ({"id": 1, "body": {"content": " "}}, Reason.INVALID_TEXT),
        ({"review_id": 1, "body": {"content": "Good."}}, Reason.INVALID_REVIEW_ID),
        ({"id": 1, "body": {"content": "Good."}, "schema_version": "3"}, Reason.UNSUPPORTED_SCHEMA_VERSION),
        ([], Reason.NOT_AN_OBJECT),
    ],
)
def test_renamed_fields_are_judged_as_strictly(value: Any, reason: Reason) -> None:
    fields = FieldNames(review_id="id", text="body.content", rating="stars")
    work = decode(json.dumps(value).encode(), fields=fields)
    assert work.rejection is not None
    assert work.rejection.reason == reason
    path = {Reason.INVALID_TEXT: "body.content: ", Reason.INVALID_REVIEW_ID: "id: "}.get(reason, "")
    assert work.rejection.error.startswith(path)


def test_a_renamed_optional_field_is_counted_by_our_name() -> None:
    fields = FieldNames(rating="meta.stars")
    assert decode(event(meta={"stars": "five"}, rating="never read"), fields=fields).invalid_fields == ("rating",)
    assert decode(event(meta=["stars"], rating="never read"), fields=fields).invalid_fields == ()
    everything = FieldNames(review_id="id", text="body", rating="stars")
    work = decode(b'{"id": 1, "body": "Good.", "stars": "five"}', fields=everything)
    assert (work.rejection, work.text, work.invalid_fields) == (None, "Good.", ("rating",))


@pytest.mark.parametrize("mode", ["forward", "skip"])
def test_tombstones_pass_as_the_setting_says(mode: str) -> None:
    work = decode(None, tombstones=mode)
    assert (work.rejection, work.tombstone) == (None, mode)
    assert decode(b"null", tombstones=mode).rejection is not None, "the word null is no null value"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(CANARY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just(CANARY), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["review_id", "text", "rating", "created_at", "schema_version", "body", "more"])


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A review with a canary in it, made wrong in its fields, its JSON or its bytes."""
    fields = {"review_id": "r", "text": CANARY, **draw(st.dictionaries(names, json_values, max_size=3))}
    value = json.dumps(fields, ensure_ascii=draw(st.booleans())).encode(errors="replace")
    at = draw(st.integers(0, len(value)))
    cut = draw(st.integers(0, 3))
    return value[:at] + draw(st.binary(max_size=3) | st.sampled_from([b"NaN", b"\xff", b"{", b'"'])) + value[at + cut :]


@given(st.binary(max_size=50) | damaged(), st.booleans())
def test_whatever_comes_is_judged_and_no_error_repeats_it(value: bytes, renamed: bool) -> None:
    work = decode(value, fields=FieldNames(text="body.text", rating="more") if renamed else FieldNames())
    if work.rejection is None:
        strict = json.loads(work.review, parse_constant=lambda name: pytest.fail(f"{name} let through"))
        assert isinstance(strict, dict)
        assert work.text.strip()
        assert work.review_id
    else:
        assert CANARY[:6] not in work.rejection.error
        assert len(work.rejection.error) < 200
