"""The demo's stream: sends reviews on a schedule, receives what comes out, and keeps account of both.

Latency is from the scheduled time of sending to the result consumed, so that a sender which falls behind hides nothing.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from worker.settings import KafkaSettings
from worker.transport.admin import Admin
from worker.transport.interface import Offsets
from worker.transport.reader import read
from worker.transport.writer import TopicWriter

BROKEN = b'{"review_id": "broken", "text": '


@dataclass(frozen=True, slots=True)
class Review:
    """One review to send; `label` is what people said of it, None for one that is broken on purpose."""

    review_id: str
    text: str
    label: str | None


@dataclass(slots=True)
class Ledger:
    """What went in and came out. Written by the sender and by the two receivers; read by the view."""

    reviews: dict[str, Review]
    scheduled: dict[str, float] = field(default_factory=dict)
    sent: int = 0
    results: Counter[str] = field(default_factory=Counter)
    right: int = 0
    dead_letters: int = 0
    latencies: list[float] = field(default_factory=list)
    recent: deque[tuple[str, float, str]] = field(default_factory=lambda: deque(maxlen=8))
    last_at: float = 0.0

    def result(self, value: bytes, now: float) -> None:
        """Takes note of one labelled review."""
        labelled = json.loads(value)
        review_id = labelled["review_id"]
        review = self.reviews[review_id]
        self.results[review_id] += 1
        self.right += labelled["label"] == review.label and self.results[review_id] == 1
        self.recent.append((labelled["label"], labelled["score"], review.text))
        if review_id in self.scheduled:
            self.latencies.append(now - self.scheduled[review_id])
        self.last_at = now

    @property
    def done(self) -> int:
        """Outcomes so far, duplicates left out."""
        return len(self.results) + self.dead_letters


class Sender:
    """Sends in the caller's thread; counts what the broker acknowledged."""

    def __init__(self, kafka: KafkaSettings, ledger: Ledger) -> None:
        self._ledger = ledger
        self._topic = kafka.input_topics[0]
        self._writer = TopicWriter(kafka, lambda token, error: self._delivered(error))

    def _delivered(self, error: Exception | None) -> None:
        self._ledger.sent += error is None

    def steady(self, reviews: Sequence[Review], per_second: float, stop: threading.Event) -> None:
        """One by one, each at its scheduled time, however long the ones before took."""
        start = time.monotonic()
        for number, review in enumerate(reviews):
            at = start + number / per_second
            if stop.wait(max(0.0, at - time.monotonic())):
                return
            self._ledger.scheduled[review.review_id] = at
            self._send(review)

    def burst(self, reviews: Sequence[Review]) -> None:
        """All at once: a backlog."""
        for review in reviews:
            self._send(review)

    def close(self) -> None:
        self._writer.flush(30)
        self._writer.close()

    def _send(self, review: Review) -> None:
        event = {"review_id": review.review_id, "text": review.text}
        value = BROKEN if review.label is None else json.dumps(event, ensure_ascii=False).encode()
        self._writer.send(self._topic, review.review_id.encode(), value)


class Receivers:
    """Two threads that read results and dead letters from where the topics ended when they were made."""

    def __init__(self, kafka: KafkaSettings, ledger: Ledger) -> None:
        self._kafka = kafka
        self._ledger = ledger
        self._stop = threading.Event()
        self.error: Exception | None = None
        with Admin(kafka) as admin:
            starts = {
                topic: admin.end(admin.partitions(topic)) for topic in (kafka.output_topic, kafka.dead_letter_topic)
            }
        self._threads = [
            threading.Thread(target=self._receive, args=(topic, start), daemon=True) for topic, start in starts.items()
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(5)

    def _receive(self, topic: str, start: Offsets) -> None:
        try:
            for records in read(self._kafka, start):
                now = time.monotonic()
                for record in records:
                    if topic == self._kafka.dead_letter_topic:
                        self._ledger.dead_letters += 1
                    elif record.value is not None:
                        self._ledger.result(record.value, now)
                if self._stop.is_set():
                    return
        except Exception as error:  # shown by the demo: a thread of its own cannot raise to anybody
            self.error = error
