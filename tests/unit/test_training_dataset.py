"""Labelled rows of data files: which labels they get, which are left out, and what is said of bad ones."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from schemas.recipe import TextRecipe
from training.dataset import Example, LabelColumn, load, parse_ranges
from training.errors import InputError

RATING = LabelColumn("rating", parse_ranges("1-2:negative,4-5:positive"))


def rows(path: Path, *values: dict[str, Any]) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in values))
    return [str(path)]


def test_ratings_become_labels_in_the_order_given(tmp_path: Path) -> None:
    ratings = [5, 4.5, "4", 3, 2, 1.0, None, "", 7]
    files = rows(tmp_path / "a.jsonl", *({"text": f"t{index}", "rating": it} for index, it in enumerate(ratings)))
    dataset = load(files, RATING, TextRecipe())
    assert dataset.labels == ["negative", "positive"]
    assert dataset.examples == [
        Example("t0", 1),
        Example("t1", 1),
        Example("t2", 1),
        Example("t4", 0),
        Example("t5", 0),
    ]
    assert dataset.unlabelled == 2 and dataset.outside_ranges == 2
    assert dataset.counts(dataset.examples) == {"negative": 2, "positive": 3}


def test_missing_ratings_of_a_parquet_file_give_no_label(tmp_path: Path) -> None:
    path = str(tmp_path / "a.parquet")
    ratings = [1.0, float("nan"), None, 5.0]
    pyarrow.parquet.write_table(pyarrow.table({"text": list("abcd"), "rating": ratings}), path)
    dataset = load([path], RATING, TextRecipe())
    assert [example.text for example in dataset.examples] == ["a", "d"] and dataset.unlabelled == 2


def test_a_label_column_is_taken_as_it_is(tmp_path: Path) -> None:
    files = rows(tmp_path / "a.jsonl", *({"text": "t", "label": it, "product": 7} for it in ("pos", "neg", "", None)))
    dataset = load(files, LabelColumn("label"), TextRecipe(), group_column="product")
    assert dataset.labels == ["neg", "pos"]
    assert dataset.examples == [Example("t", 1, "7"), Example("t", 0, "7")]
    assert dataset.unlabelled == 2


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("1-2:negative,4-5:positive", ((1, 2, "negative"), (4, 5, "positive"))),
        ("1:bad, 2.5-5:good", ((1, 1, "bad"), (2.5, 5, "good"))),
        ("-4--0.5:negative,0.5-4:positive", ((-4, -0.5, "negative"), (0.5, 4, "positive"))),
    ],
)
def test_ranges(text: str, ranges: tuple[tuple[float, float, str], ...]) -> None:
    assert parse_ranges(text) == ranges


@pytest.mark.parametrize("text", ["", "1-2", "a-b:x", "2-1:x", "1-3:x,3-5:y", "1-2:", "0-1:x,0-1:y"])
def test_ranges_that_make_no_sense(text: str) -> None:
    with pytest.raises(InputError, match="--labels"):
        parse_ranges(text)


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ([1], "not a JSON object"),
        ({"text": " ", "rating": 1}, "text is blank"),
        ({"text": None, "rating": 1}, "text is blank"),
        ({"text": 5, "rating": 1}, "text is no string"),
        ({"text": "secret", "rating": "secret"}, "rating is not a number"),
        ({"text": "t", "rating": "nan"}, "rating is not a number"),
        ({"text": "t", "stars": 1}, "no column 'rating'; there are text, stars"),
        ({"body": "t", "rating": 1}, "no column 'text'; there are body, rating"),
    ],
)
def test_a_bad_row_stops_or_is_left_out(tmp_path: Path, row: Any, cause: str) -> None:
    good = [{"text": "a", "rating": 1}, {"text": "b", "rating": 5}]
    files = rows(tmp_path / "a.jsonl", good[0], row, good[1])
    with pytest.raises(InputError) as raised:
        load(files, RATING, TextRecipe())
    advice = "" if "no column" in cause else "; --skip-bad-rows leaves such rows out"
    assert str(raised.value) == f"{files[0]}:2: {cause}{advice}"
    dataset = load(files, RATING, TextRecipe(), skip_bad_rows=True)
    assert [example.text for example in dataset.examples] == ["a", "b"]
    assert [(bad.place, bad.cause) for bad in dataset.bad_rows] == [(f"{files[0]}:2", cause)]


def test_a_line_that_is_no_row_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,rating\nok,1\nbroken\nok,5\n")
    with pytest.raises(InputError, match=r"a\.csv:3: 1 fields, the header has 2; --skip-bad-rows"):
        load([str(path)], RATING, TextRecipe())


@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_a_missing_column_stops_also_where_bad_rows_do_not(tmp_path: Path, skip_bad_rows: bool) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,stars\nok,1\nok,5\n")
    with pytest.raises(InputError) as raised:
        load([str(path)], RATING, TextRecipe(), skip_bad_rows=skip_bad_rows)
    assert str(raised.value) == f"{path}:2: no column 'rating'; there are text, stars"


@pytest.mark.parametrize("content", ["", "text,rating\n"])
def test_a_file_without_rows_says_so(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=r"a\.csv: no rows"):
        load([str(path)], RATING, TextRecipe())


def test_a_template_reads_other_columns_and_misses_those_that_never_come(tmp_path: Path) -> None:
    files = rows(
        tmp_path / "a.jsonl", {"title": "T", "text": "a", "rating": 1}, {"title": None, "text": "b", "rating": 5}
    )
    texts = [example.text for example in load(files, RATING, TextRecipe(template="{title} {text}")).examples]
    assert texts == ["T a", "b"]
    with pytest.raises(InputError, match="no column headline"):
        load(files, RATING, TextRecipe(template="{headline} {text}"))


@pytest.mark.parametrize(
    ("ratings", "message"),
    [
        ([3, 3], "gives no label"),
        ([5, 4], "only the label positive"),
    ],
)
def test_two_labels_are_needed(tmp_path: Path, ratings: list[int], message: str) -> None:
    files = rows(tmp_path / "a.jsonl", *({"text": "t", "rating": rating} for rating in ratings))
    with pytest.raises(InputError, match=message):
        load(files, RATING, TextRecipe())


def test_the_wrong_column_for_labels_is_noticed(tmp_path: Path) -> None:
    files = rows(tmp_path / "a.jsonl", *({"text": f"t{number}"} for number in range(99)))
    with pytest.raises(InputError, match="99 different values"):
        load(files, LabelColumn("text"), TextRecipe())


def test_labels_of_a_checkpoint_are_fixed(tmp_path: Path) -> None:
    files = rows(tmp_path / "a.jsonl", {"text": "t", "label": "pos"})
    assert load(files, LabelColumn("label"), TextRecipe(), labels=["neg", "pos"]).examples == [Example("t", 1)]
    with pytest.raises(InputError, match="labels that the checkpoint has not: pos"):
        load(files, LabelColumn("label"), TextRecipe(), labels=["a", "b"])


def test_the_fingerprint_is_of_texts_labels_and_order(tmp_path: Path) -> None:
    def sha256(*pairs: tuple[str, str]) -> str:
        files = rows(tmp_path / "a.jsonl", *({"text": text, "label": label} for text, label in pairs))
        return load(files, LabelColumn("label"), TextRecipe()).sha256

    first = sha256(("a", "x"), ("b", "y"))
    assert first == sha256(("a", "x"), ("b", "y"))
    others = {sha256(("b", "y"), ("a", "x")), sha256(("a", "y"), ("b", "x")), sha256(("a", "x"), ("c", "y"))}
    assert len(others - {first}) == 3
