"""Single records on their way, for tests of one stage at a time; and hypothesis strategies of what Kafka carries."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from schemas.headers import Headers
from schemas.labeled import ModelInfo
from worker.transport.interface import Record, TopicPartition
from worker.work import Work

MODEL = ModelInfo(name="fake", version="v0001", digest="0" * 64)
EVENT = b'{"review_id": "r-1", "text": "Good."}'

names = st.text(st.characters(codec="utf-8"), max_size=20)
contents = st.none() | st.binary(max_size=30)
keys = contents


def headers(*special: str) -> st.SearchStrategy[Headers]:
    """Any headers, often with repeated names and with these ones among them."""
    name = st.sampled_from(["traceparent", *special]) | names
    return st.lists(st.tuples(name, contents), max_size=6).map(tuple)


def make_work(
    value: bytes | None = EVENT,
    key: bytes | None = b"k",
    headers: Headers = (),
    topic: str = "reviews",
    partition: int = 3,
    offset: int = 42,
    epoch: int = 1,
) -> Work:
    """A record as polled."""
    record = Record(topic, partition, offset, 1_700_000_000_000, key, value, headers)
    return Work(record, TopicPartition(topic, partition), epoch, len(value or b""), 0.0)


def make_labelled(positive: float = 0.75, **record: Any) -> Work:
    """A record that the model has labelled."""
    work = make_work(**record)
    work.review = work.record.value or b"{}"
    work.review_id = str(json.loads(work.review)["review_id"])
    work.tokens, work.model = [1, 2, 3], MODEL
    work.scores, work.classified_at = {"negative": 1 - positive, "positive": positive}, 1_700_000_001.5
    return work
