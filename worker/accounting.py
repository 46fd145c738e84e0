"""Turns what happens in the pipeline into metrics, once a batch. Decides nothing but how long a broker has been silent.

Three clocks: stage times are monotonic; a record's age is wall time less its timestamp; an event's age is wall time
less `created_at`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from schemas.dead_letter import RejectReason
from worker import metrics as m
from worker.health import Health
from worker.holdings import Holdings
from worker.transport.interface import CommitRefused, Offsets, TopicPartition
from worker.work import Work

log = logging.getLogger(__name__)

THREADS = ("consume", "prepare", "infer", "publish")
BLOCKED_AFTER_SECONDS = 2.0
STAGE_OF = dict.fromkeys((RejectReason.RESULT_TOO_LARGE, RejectReason.MISSING_KEY), "publish") | {
    RejectReason.MODEL_FAILURE: "infer"
}
SILENT_AFTER_SECONDS = 12.0  # lag is asked for every 5 s, so an idle worker hears from a broker that often
IDLE_AFTER_SECONDS = 12.0  # what is read again after a failed delivery is on its way again before that


class Accounting:
    """Called from every thread of the pipeline."""

    def __init__(self, metrics: m.Metrics) -> None:
        self._metrics = metrics
        self.mean_tokens = 64.0
        self.acknowledged = 0.0
        self._answered_at = self._looked_at = self._on_its_way_at = time.monotonic()
        self._acknowledged_then = self._waiting = 0.0
        self._paused_since: float | None = None
        self._blocked = False

    def declare(self, labels: Sequence[str], version: str) -> None:
        """Starts the series of every outcome at 0: Prometheus' `rate` does not see the first count of a new one."""
        for label in labels:
            self._metrics.add(m.LABELLED, 0, label, version)
        for reason in RejectReason:
            self._metrics.add(m.REJECTED, 0, reason.value, STAGE_OF.get(reason, "decode"))

    def consumed(self, works: Sequence[Work]) -> None:
        for topic, count in Counter(work.record.topic for work in works).items():
            self._metrics.add(m.CONSUMED, count, topic)

    def prepared(self, works: Sequence[Work]) -> None:
        for name, count in Counter(name for work in works for name in work.invalid_fields).items():
            self._metrics.add(m.INVALID_OPTIONAL, count, name)
        lengths = [work.cost for work in works if work.tokens is not None]
        self._metrics.observe(m.RECORD_TOKENS, lengths)
        if lengths:
            weight = min(0.5, len(lengths) / 1000)
            self.mean_tokens += weight * (sum(lengths) / len(lengths) - self.mean_tokens)

    def inferred(self, works: Sequence[Work], idle_since: float, queued_tokens: int) -> None:
        """A device is done with a batch; before it, it had computed nothing since `idle_since`."""
        tokens = sum(work.cost for work in works)
        self._metrics.add(m.TOKENS_CLASSIFIED, tokens)
        self._metrics.observe(m.BATCH_RECORDS, [len(works)])
        self._metrics.observe(m.BATCH_TOKENS_SIZE, [tokens])
        self._metrics.add(m.DEVICE_BUSY, works[0].inferred_at - works[0].taken_at)
        # First in, first out: the first record with tokens has waited longest.
        if (first := next((work for work in works if work.tokens is not None), None)) is not None:
            self._metrics.add(m.DEVICE_STARVED, max(0.0, first.taken_at - max(idle_since, first.tokenized_at)))
        self._metrics.set(m.QUEUED_TOKENS, queued_tokens)

    def stale(self) -> None:
        self._metrics.add(m.STALE, 1)

    def finished(self, works: Sequence[Work]) -> None:
        """These are acknowledged, in at least once each, in exactly once with their transaction."""
        if not works:
            return
        now, wall = time.monotonic(), time.time()
        self._answered_at = now
        self.acknowledged += len(works)
        self._outcomes(works)
        ages = [wall - work.record.timestamp / 1000 for work in works]
        self._metrics.observe(m.RECORD_AGE, (max(0.0, age) for age in ages))
        self._metrics.add(m.NEGATIVE_AGE, sum(age < 0 for age in ages))
        self._metrics.observe(
            m.EVENT_AGE, (max(0.0, wall - work.created_at) for work in works if work.created_at is not None)
        )
        self._metrics.observe(m.RECORD_SECONDS, (now - work.polled_at for work in works))
        for stage, seconds in (
            ("decode", [work.decoded_at - work.polled_at for work in works]),
            ("tokenize", [work.tokenized_at - work.decoded_at for work in works]),
            ("batch", [work.taken_at - work.tokenized_at for work in works]),
            ("infer", [work.inferred_at - work.taken_at for work in works]),
            ("publish", [now - work.inferred_at for work in works]),
        ):
            self._metrics.observe(m.STAGE_SECONDS, seconds, stage)

    def _outcomes(self, works: Sequence[Work]) -> None:
        labelled = [work for work in works if work.rejection is None and work.scores and work.model]
        for (label, version), count in Counter((w.label, w.model.version) for w in labelled if w.model).items():
            self._metrics.add(m.LABELLED, count, label, version)
        rejections = [work.rejection for work in works if work.rejection is not None]
        for (reason, stage), count in Counter((r.reason.value, r.stage) for r in rejections).items():
            self._metrics.add(m.REJECTED, count, reason, stage)
        for action, count in Counter(work.tombstone for work in works if work.tombstone).items():
            self._metrics.add(m.TOMBSTONES, count, action)
        self._metrics.add(m.TRUNCATED, sum(work.truncated for work in labelled))
        self._metrics.add(m.REVIEW_OMITTED, sum(work.review_omitted for work in labelled))

    def rebalanced(self, kind: str, partitions: Iterable[TopicPartition], owned: int) -> None:
        self._metrics.add(m.REBALANCES, 1, kind)
        self._metrics.set(m.OWNED, owned)
        names = sorted(f"{topic}-{partition}" for topic, partition in partitions)
        log.info("partitions %s: %s", kind, ", ".join(names) or "none")
        if kind != "assigned":
            for topic, partition in partitions:
                self._metrics.remove(m.LAG, topic, str(partition))
                self._metrics.remove(m.COMMITTED, topic, str(partition))

    def rewound(self) -> None:
        self._metrics.add(m.REWINDS, 1)

    def commit_ended(self, offsets: Offsets, error: BaseException | None) -> None:
        outcome = "ok" if error is None else "refused" if isinstance(error, CommitRefused) else "failed"
        self._metrics.add(m.COMMITS, 1, outcome)
        if error is None:
            self.answered()
            for (topic, partition), offset in offsets.items():
                self._metrics.set(m.COMMITTED, offset, topic, str(partition))

    def paused(self, paused: bool) -> None:
        now = time.monotonic()
        if self._paused_since is not None:
            self._metrics.add(m.PAUSED, now - self._paused_since)
        self._paused_since = now if paused else None

    def answered(self) -> None:
        self._answered_at = time.monotonic()

    def lag(self, ends: Offsets, frontiers: Offsets) -> None:
        for partition, frontier in frontiers.items():
            if partition in ends:
                behind = max(0, ends[partition] - frontier)
                self._metrics.set(m.LAG, behind, partition.topic, str(partition.partition))

    def prepared_cpu(self, decode: float, tokenize: float) -> None:
        """CPU seconds of the prepare thread, by what it did."""
        self._metrics.add(m.CPU, decode, "decode")
        self._metrics.add(m.CPU, tokenize, "tokenize")

    def _cpu(self) -> None:
        """CPU seconds of the other threads, each the part it is named after; the client's own threads are `client`."""
        parts: defaultdict[str, float] = defaultdict(float)
        for thread in threading.enumerate():
            name = (thread.name or "").split("-")[0]
            part = name if name in THREADS else "other" if name in ("MainThread", "http", "observe") else "client"
            try:
                parts[part] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident or 0))
            except OSError:
                continue  # it ended meanwhile
        parts["native"] = max(0.0, time.process_time() - sum(parts.values()))
        parts.pop("prepare", None)  # told apart into decode and tokenize
        for part, seconds in parts.items():
            self._metrics.set(m.CPU, seconds, part)

    def look(
        self, holdings: Holdings, queued_tokens: int, health: Health, commits_fail_since: float | None = None
    ) -> float:
        """Takes stock, from the observing thread; returns for how many seconds brokers have held things up."""
        now = time.monotonic()
        since, self._looked_at = now - self._looked_at, now
        self._metrics.set(m.IN_FLIGHT, holdings.records)
        self._metrics.set(m.IN_FLIGHT_BYTES, holdings.bytes)
        self._metrics.set(m.QUEUED_TOKENS, queued_tokens)
        self._metrics.set(m.READY, health.ready)
        if hasattr(time, "pthread_getcpuclockid"):  # not on every system
            self._cpu()
        silent = now - self._answered_at
        self._wait(since, holdings, health)
        uncommitted = 0.0 if commits_fail_since is None else now - commits_fail_since
        unacknowledged, failing = self._waiting > BLOCKED_AFTER_SECONDS, uncommitted > BLOCKED_AFTER_SECONDS
        blocked = unacknowledged or failing or silent > SILENT_AFTER_SECONDS
        if blocked:
            self._metrics.add(m.BLOCKED, since)
        if blocked != self._blocked:
            why = (
                "nothing that was sent is acknowledged" if unacknowledged
                else "no commit succeeds" if failing
                else "no broker answers"
            )  # fmt: skip
            log.warning("blocked: %s", why) if blocked else log.warning("no longer blocked")
        self._blocked = blocked
        return max(silent, self._waiting, uncommitted) if blocked else 0.0

    def _wait(self, since: float, holdings: Holdings, health: Health) -> None:
        """Adds up the time that records were on their way and only an acknowledgement was missing. Nothing but one sets
        it back: not other answers, nor that the same records are read and sent again after their delivery failed."""
        on_its_way = holdings.handed > 0 or health.awaiting_broker
        if on_its_way:
            self._on_its_way_at = self._looked_at
        if self.acknowledged != self._acknowledged_then or self._looked_at - self._on_its_way_at > IDLE_AFTER_SECONDS:
            self._acknowledged_then, self._waiting = self.acknowledged, 0.0
        elif on_its_way and not health.computing:
            self._waiting += since
