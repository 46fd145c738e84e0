"""The input of a chaos run: which record has which number, and what must become of it. Knows no Kafka and no worker.

Neighbours never have the same text, so that a result given to the wrong review has the wrong score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from schemas.datafiles import Row, read_rows
from schemas.dead_letter import RejectReason
from schemas.headers import Headers
from schemas.recipe import TextRecipe
from worker.engine.simulated import probability

BUNDLED_REVIEWS = Path(__file__).parents[2] / "training" / "data" / "vader_reviews.csv.gz"
TEXTS = 3000
LONG_EVERY = 100  # each of these texts is longer than the model reads
BAD_EVERY = 41  # shares no factor with any number of partitions: none gets more than its part
BAD = (
    (b'{"review_id": "canary", "text": ', RejectReason.INVALID_JSON),
    (b'{"review_id": "canary", "text": " "}', RejectReason.INVALID_TEXT),
    (None, RejectReason.NULL_VALUE),
)


def review_texts() -> list[str]:
    """Real reviews, all different; some joined to long ones."""
    rows = (row.values["text"] for row in read_rows(str(BUNDLED_REVIEWS)) if isinstance(row, Row))
    texts = list(dict.fromkeys(rows))[:TEXTS]
    for number in range(0, TEXTS, LONG_EVERY):
        texts[number] = " ".join(texts[number : number + 30])
    return texts


@dataclass(frozen=True, slots=True)
class Expected:
    """What the worker must say of one text."""

    positive: float
    tokens: int
    truncated: bool


def expectations(texts: Sequence[str], checkpoint: Path) -> list[Expected]:
    """By the checkpoint's tokenizer and the simulated model's checksum, without the worker's own path to them."""
    limit = TextRecipe().max_length
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    return [Expected(probability(e.ids), len(e.ids), bool(e.overflowing)) for e in tokenizer.encode_batch(list(texts))]


@dataclass(frozen=True, slots=True)
class Review:
    """One record of the input; `reason` is set where it must become a dead letter."""

    key: bytes
    value: bytes | None
    headers: Headers
    reason: RejectReason | None


def review(number: int, texts: Sequence[str]) -> Review:
    """The record of this number."""
    headers = (("trace", b"%d" % number), ("trace", None))
    if number % BAD_EVERY == BAD_EVERY - 1:
        value, reason = BAD[number // BAD_EVERY % len(BAD)]
        return Review(b"r%d" % number, value, headers, reason)
    event = {"review_id": f"r{number}", "text": texts[number % len(texts)]}
    return Review(b"r%d" % number, json.dumps(event, ensure_ascii=False).encode(), headers, None)


def number_of(key: str | bytes) -> int:
    """The inverse: from a review_id, or from the key of a record. ValueError where it is none of ours."""
    return int(key[1:])
