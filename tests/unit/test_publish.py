"""What goes out for a labelled record: the review byte for byte, the right label, no more than the topic takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import headers as names
from schemas.dead_letter import RejectReason
from schemas.headers import Headers, last, parse_source
from schemas.labeled import LabeledReview
from tests.fakes.works import MODEL, headers, keys, make_labelled, make_work
from worker.publish import ResultWriter
from worker.sizes import batch_bytes
from worker.transport.interface import Outgoing, TopicInfo
from worker.work import Rejection, Work


def writer(limit: int = 2**20, partitions: int = 12, policy: str = "delete", include: bool = True) -> ResultWriter:
    return ResultWriter("out", TopicInfo(partitions, limit, policy), "w-1", include_review=include)


def write(work: Work, **settings: Any) -> Outgoing:
    written = writer(**settings).write(work)
    assert isinstance(written, Outgoing)
    return written


def size(result: Outgoing) -> int:
    return batch_bytes(result.key, result.value, result.headers)


def tombstone(**record: Any) -> Work:
    work = make_work(None, **record)
    work.tombstone, work.model = "forward", MODEL
    return work


def test_the_result_says_everything_about_the_label() -> None:
    value = b'{"review_id": 7, "text": "Good."}'
    work = make_labelled(0.875, value=value, topic="re-views", partition=14, offset=9)
    work.truncated = True
    assert json.loads(write(work).value or b"") == {
        "review_id": "7",
        "label": "positive",
        "score": 0.875,
        "scores": {"negative": 0.125, "positive": 0.875},
        "model": {"name": "fake", "version": "v0001", "digest": "0" * 64},
        "source": {"topic": "re-views", "partition": 14, "offset": 9, "timestamp": work.record.timestamp},
        "classified_at": "2023-11-14T22:13:21.500000Z",
        "token_count": 3,
        "truncated": True,
        "schema_version": "1.0",
        "review": json.loads(value),
    }
    assert "review" not in json.loads(write(work, include=False).value or b"")
    assert "review_omitted" not in json.loads(write(work, include=False).value or b""), "left out by choice"


@given(st.text(min_size=1), st.floats(0, 1, width=32), st.integers(0, 2**40), st.booleans(), st.booleans())
def test_the_result_is_the_published_model_s_own_json(
    review_id: str, positive: float, milliseconds: int, truncated: bool, omitted: bool
) -> None:
    value = json.dumps({"review_id": review_id}).encode()
    work = make_labelled(positive, value=value + b" " * (2000 if omitted else 0))
    work.classified_at, work.truncated = milliseconds / 1000, truncated
    written = write(work, limit=900 if omitted else 2**20, include=omitted).value or b""
    model = LabeledReview.model_validate_json(written)
    assert model.model_dump_json(exclude_none=True).encode() == written
    assert (model.truncated, model.review_omitted) == (truncated, omitted or None)


reviews = st.dictionaries(
    st.text(), st.text() | st.integers() | st.floats(allow_nan=False) | st.lists(st.text(), max_size=2), max_size=4
)


@given(reviews, st.sampled_from([None, 0, 3]), st.booleans(), st.sampled_from([b"", b"\n", b" \r\n\t"]))
def test_the_review_is_the_input_s_own_bytes(
    fields: dict[str, Any], indent: int | None, ascii_only: bool, space: bytes
) -> None:
    fields |= {"review_id": "ü\u2028", "score": -1, "review": "of its own"}
    text = json.dumps(fields, indent=indent, ensure_ascii=ascii_only).encode(errors="replace")
    value = write(make_labelled(value=space + text + space)).value or b""
    assert value.endswith(b',"review":' + space + text + space + b"}")
    result = json.loads(value)
    assert result["review"] == json.loads(text)
    assert (result["review_id"], result["score"]) == ("ü\u2028", 0.75)


@given(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=5))
def test_label_score_and_scores_agree(probabilities: list[float]) -> None:
    work = make_labelled()
    work.scores = {f"label {index}": value for index, value in enumerate(probabilities)}
    result = json.loads(write(work).value or b"")
    assert list(result["scores"]) == list(work.scores)
    assert result["score"] == result["scores"][result["label"]] == max(result["scores"].values())
    assert work.scores[result["label"]] == max(probabilities)
    assert all(abs(result["scores"][label] - score) <= 1e-7 for label, score in work.scores.items())


@given(headers(names.MODEL, names.SOURCE, names.OWNER), keys)
def test_the_input_s_headers_come_first_and_ours_are_the_last_of_their_names(own: Headers, key: bytes | None) -> None:
    result = write(make_labelled(headers=own, key=key, topic="a-1-2", partition=3, offset=4, epoch=6))
    assert result.key == key
    assert result.headers[: len(own)] == own
    assert [name for name, _ in result.headers[len(own) :]] == [names.MODEL, names.SOURCE, names.OWNER]
    assert last(result.headers, names.MODEL) == b"fake@v0001"
    assert parse_source(last(result.headers, names.SOURCE) or b"") == ("a-1-2", 3, 4)
    assert last(result.headers, names.OWNER) == b"w-1/6"
    assert last(result.headers, "absent") is None


@pytest.mark.parametrize("wrong", [b"", b"topic", b"topic-1", b"topic-1-x", b"\xff-1-2"])
def test_what_is_no_source_is_refused(wrong: bytes) -> None:
    with pytest.raises(ValueError):
        names.parse_source(wrong)


@given(st.integers(0, 500), st.integers(1, 64))
def test_the_partition_is_the_input_s_modulo_the_target_s_count(partition: int, count: int) -> None:
    work = make_labelled(partition=partition)
    result = write(work, partitions=count)
    assert (result.topic, result.partition, result.token) == ("out", partition % count, work)


@given(st.integers(0, 3000), st.integers(0, 300), st.sampled_from([(), (("own", b"x" * 100),)]))
def test_at_the_limit_the_review_stays_one_byte_over_it_goes_then_the_result_is_refused(
    text: int, key: int, own: Headers
) -> None:
    value = b'{"review_id": 7, "text": "' + b"x" * text + b'"}'

    def labelled() -> Work:
        return make_labelled(value=value, key=b"k" * key, headers=own)

    whole = size(write(labelled()))
    for limit in (whole + 1, whole):
        assert json.loads(write(labelled(), limit=limit).value or b"")["review"] == json.loads(value)
    work = labelled()
    over = write(work, limit=whole - 1)
    result = json.loads(over.value or b"")
    assert result["review_omitted"] is True and work.review_omitted
    assert "review" not in result
    assert size(write(labelled(), limit=size(over))) == size(over) < whole
    refused = writer(limit=size(over) - 1).write(labelled())
    assert isinstance(refused, Rejection) and refused.reason == RejectReason.RESULT_TOO_LARGE


@given(keys.filter(bool), headers())
def test_a_forwarded_tombstone_is_a_null_value_with_the_same_key(key: bytes, own: Headers) -> None:
    result = write(tombstone(key=key, headers=own, partition=15), policy="compact,delete")
    assert (result.key, result.value, result.partition) == (key, None, 3)
    assert result.headers[: len(own)] == own
    assert len(result.headers) == len(own) + 3
    assert isinstance(writer(limit=size(result) - 1).write(tombstone(key=key, headers=own, partition=15)), Rejection)


@pytest.mark.parametrize("work", [make_labelled(key=None), tombstone(key=None)])
@pytest.mark.parametrize("policy", ["compact", "compact,delete", "delete"])
def test_a_compacted_topic_takes_no_record_without_a_key(work: Work, policy: str) -> None:
    written = writer(policy=policy).write(work)
    if policy == "delete":
        assert isinstance(written, Outgoing)
    else:
        assert isinstance(written, Rejection) and written.reason == RejectReason.MISSING_KEY
