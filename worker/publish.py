"""A labelled record to the result that goes out. Knows nothing of clients, threads or dead letters' own layout."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic_core import to_json

from schemas import SCHEMA_VERSION, headers
from schemas.dead_letter import RejectReason
from schemas.labeled import splice_review
from worker.sizes import fits
from worker.transport.interface import Outgoing, TopicInfo
from worker.work import Rejection, Work

STAGE = "publish"


class ResultWriter:
    """Makes results for one topic, in its own partition rule: input partition modulo the topic's partitions."""

    def __init__(self, topic: str, info: TopicInfo, worker: str, *, include_review: bool) -> None:
        self._topic = topic
        self._info = info
        self._worker = worker
        self._include_review = include_review

    def write(self, work: Work) -> Outgoing | Rejection:
        """The record to produce; a Rejection where the topic would refuse it.

        A result that is too large only with the review goes out without, `review_omitted` set.
        """
        record, model = work.record, work.model
        assert model is not None
        if record.key is None and "compact" in self._info.cleanup_policy:
            return Rejection(RejectReason.MISSING_KEY, STAGE, "the output topic is compacted: it takes no null key")
        own = (
            *record.headers,
            (headers.MODEL, f"{model.name}@{model.version}".encode()),
            (headers.SOURCE, headers.source_value(record.topic, record.partition, record.offset)),
            (headers.OWNER, f"{self._worker}/{work.epoch}".encode()),
        )
        if work.tombstone == "forward":
            value = None
        else:
            value = _result(work)
            if self._include_review:
                value = splice_review(value, work.review)
                if not self._fits(record.key, value, own):
                    work.review_omitted = True
                    value = _result(work)
        if not self._fits(record.key, value, own):
            return Rejection(RejectReason.RESULT_TOO_LARGE, STAGE, f"over {self._info.max_message_bytes} bytes")
        return Outgoing(self._topic, record.partition % self._info.partitions, record.key, value, own, work)

    def _fits(self, key: bytes | None, value: bytes | None, own: headers.Headers) -> bool:
        return fits(self._info.max_message_bytes, key, value, own)


def _result(work: Work) -> bytes:
    """A LabeledReview as JSON, made from plain values: a fifth of what building the model costs, equal by test."""
    assert work.scores is not None and work.tokens is not None
    record = work.record
    scores = {label: round(probability, 7) for label, probability in work.scores.items()}
    label = work.label
    result = {
        "review_id": work.review_id,
        "label": label,
        "score": scores[label],
        "scores": scores,
        "model": work.model,
        "source": {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp": record.timestamp,
        },
        "classified_at": datetime.fromtimestamp(work.classified_at, UTC),
        "token_count": len(work.tokens),
        "truncated": work.truncated,
        "schema_version": SCHEMA_VERSION,
    }
    if work.review_omitted:
        result["review_omitted"] = True
    return to_json(result)
