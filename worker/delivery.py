"""The producing side: results and dead letters out in order, and what the broker says of them back.

Called by the pipeline's publish thread only. In exactly-once delivery it also ends the transactions.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from worker.accounting import Accounting
from worker.breaker import Breaker
from worker.dead_letters import DeadLetterWriter
from worker.health import Health
from worker.holdings import Holdings
from worker.publish import ResultWriter
from worker.settings import Settings
from worker.transport.interface import DeliveryFailed, Outgoing, TransactionAborted, Transport
from worker.work import Rejection, Work

log = logging.getLogger(__name__)


class Delivery:
    """Sends works and settles them in the holdings."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        holdings: Holdings,
        results: ResultWriter,
        dead_letters: DeadLetterWriter,
        accounting: Accounting,
        health: Health,
        read_again: Callable[[str], None],
        trip: Callable[[], None],
    ) -> None:
        self._transactional = settings.delivery == "exactly_once"
        self._commit_interval = settings.commit_interval
        self._outage_deadline = settings.kafka.outage_deadline
        self._transport = transport
        self._holdings = holdings
        self._results = results
        self._dead_letters = dead_letters
        self._accounting = accounting
        self._health = health
        self._read_again = read_again
        self._trip = trip
        self._breaker = Breaker(settings.breaker.ratio, settings.breaker.window, settings.breaker.minimum)
        self._tripped = False
        self._open: list[Work] = []  # sent in the open transaction
        self._opened_at = 0.0
        self._void = False

    def send(self, batch: Sequence[Work]) -> None:
        """Hands a batch to the producer, in order; drops whatever is no longer ours to write."""
        for work in batch:
            if self._void or not self._holdings.is_current(work):
                self._accounting.stale()
            elif work.tombstone == "skip":
                self._settle([work])
            else:
                self._health.busy("publish", time.monotonic())
                outgoing = self._written(work)
                if self._breaks(work):
                    continue
                self._health.wait("publish", "broker", time.monotonic())
                self._transport.send(outgoing)
                self._health.idle("broker")
                if self._transactional:
                    self._opened_at = self._opened_at if self._open else time.monotonic()
                    self._open.append(work)

    def _breaks(self, work: Work) -> bool:
        """Whether the breaker has tripped: from that record on nothing is written, and all is let go unhandled."""
        if not self._tripped and self._breaker.record(work.rejection is not None):
            self._tripped = True
            log.error("breaker: %s", self._breaker)
            self._trip()
        if self._tripped:
            with self._holdings.lock:
                self._holdings.finish(work)
        return self._tripped

    def _written(self, work: Work) -> Outgoing:
        written = work.rejection or self._results.write(work)
        if isinstance(written, Rejection):
            work.rejection = written
            return self._dead_letters.write(work, written, time.time())
        return written

    def settle(self, deliveries: Sequence[tuple[Work, DeliveryFailed | None]]) -> None:
        """Takes note of what the broker has acknowledged; a refusal makes everything be read again."""
        if not self._transactional:
            self._settle([work for work, error in deliveries if error is None])
        failures = [error for work, error in deliveries if error is not None and self._holdings.is_current(work)]
        if failures:
            self._abandon(str(failures[0]))

    def commit_transaction(self) -> None:
        """Commits results and offsets together: when the interval is over, or at once where nothing else is coming."""
        if self._void:
            return
        idle = self._holdings.records <= len(self._open)
        if self._open and not idle and time.monotonic() - self._opened_at < self._commit_interval:
            return
        works, self._open = self._open, []
        with self._holdings.lock:
            for work in works:
                self._holdings.acknowledge(work)
            offsets = self._holdings.committable()
            epochs = self._holdings.epochs(offsets)  # some have no work here: markers and holes move a frontier too
        if not works and not offsets:
            return

        def still_owned() -> bool:
            return self._holdings.are_current(epochs) and all(map(self._holdings.is_current, works))

        self._health.wait("publish", "broker", time.monotonic())
        try:
            self._transport.commit_transaction(offsets, still_owned, self._outage_deadline)
        except TransactionAborted as error:
            self._accounting.commit_ended(offsets, error)
            self._abandon(str(error))
            return
        finally:
            self._health.idle("broker")
        with self._holdings.lock:
            self._holdings.committed(offsets)
        self._accounting.commit_ended(offsets, None)
        self._finish(works)

    def _abandon(self, why: str) -> None:
        """Everything in flight is void from this moment, before another record is sent; it will be read again. So is
        whatever a rebalance brings before that: the producer still has the transaction that failed."""
        self._void = True
        with self._holdings.lock:
            self._holdings.lost(self._holdings.partitions)
        self._open = []
        self._read_again(why)

    def resume(self) -> None:
        """After everything has been read again; called from the consume thread."""
        self._void = False

    def _settle(self, works: Sequence[Work]) -> None:
        with self._holdings.lock:
            ours = [work for work in works if self._holdings.acknowledge(work)]
        self._finish(ours)

    def _finish(self, works: Sequence[Work]) -> None:
        with self._holdings.lock:
            for work in works:
                self._holdings.finish(work)
        self._accounting.finished(works)
