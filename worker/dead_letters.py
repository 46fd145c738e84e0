"""A rejected record to its dead letter: the original byte for byte, our headers behind its own. Knows no client."""

from __future__ import annotations

from datetime import UTC, datetime

from schemas.dead_letter import DeadLetterInfo, next_attempt, wrap
from schemas.headers import source_value
from worker import __version__
from worker.sizes import batch_bytes
from worker.transport.interface import Outgoing, TopicInfo
from worker.work import Rejection, Work


class DeadLetterWriter:
    """Makes dead letters for one topic; partition rule as for results."""

    def __init__(self, topic: str, info: TopicInfo, worker: str) -> None:
        self._topic = topic
        self._info = info
        self._worker = worker

    def write(self, work: Work, rejection: Rejection, now: float) -> Outgoing:
        """The record to produce. One too large for the topic goes without value, then also without its headers and
        key: `review-worker-value-omitted` is set and its coordinates say where the original is."""
        record = work.record
        info = DeadLetterInfo(
            reason=rejection.reason,
            stage=rejection.stage,
            error=rejection.error,
            source=source_value(record.topic, record.partition, record.offset).decode(),
            record_timestamp=record.timestamp,
            failed_at=datetime.fromtimestamp(now, UTC),
            worker=self._worker,
            worker_version=__version__,
            model=f"{work.model.name}@{work.model.version}" if work.model else "",
            attempt=next_attempt(record.key, record.value, record.headers),
        )
        omitted = info.model_copy(update={"value_omitted": True})
        key, value, headers = record.key, record.value, wrap(record.key, record.value, record.headers, info)
        if batch_bytes(key, value, headers) > self._info.max_message_bytes:
            value, headers = None, wrap(record.key, record.value, record.headers, omitted)
        if batch_bytes(key, value, headers) > self._info.max_message_bytes:
            headers = wrap(None, None, (), omitted)
        if batch_bytes(key, value, headers) > self._info.max_message_bytes:
            key = None
        return Outgoing(self._topic, record.partition % self._info.partitions, key, value, headers, work)
