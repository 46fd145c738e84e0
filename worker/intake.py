"""The consuming side: how much may be in flight, what is committed when, and reading again after a failed delivery.

Called by the pipeline's consume thread only. Knows nothing of what records hold.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future

from worker.accounting import Accounting
from worker.holdings import Holdings
from worker.settings import Settings
from worker.transport.interface import CommitRefused, Offsets, Transport, TransportFault
from worker.work import Work

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
RESUME_SHARE = 0.75
SLOW_COMMIT = 1.0  # seconds without an answer: then it may be long in coming
REWINDS_WITHOUT_PROGRESS = 5
AT_ONCE = 1.0  # seconds: what is refused sooner, over and over, is refused for good; what takes longer may be an outage


class Intake:
    """Reads records into the holdings, and commits what has left them."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        holdings: Holdings,
        accounting: Accounting,
        tokens_per_second: float,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._holdings = holdings
        self._accounting = accounting
        self._tokens_per_second = tokens_per_second
        self._commit: tuple[Offsets, Future[None]] | None = None
        self._committed_at = 0.0
        self.commits_fail_since: float | None = None
        self._paused = False
        self._rewinds = 0
        self._progressed_at = 0.0
        self._acknowledged = 0.0

    def poll(self) -> list[Work]:
        """Records just read, in order within each partition; waits a little for the first."""
        records = self._transport.poll(POLL_SECONDS)
        if not records:
            return []
        with self._holdings.lock:
            works = self._holdings.read(records, time.monotonic())
        self._accounting.consumed(works)
        return works

    def balance(self, *, draining: bool) -> None:
        """Pauses the whole assignment at any bound of what may be in flight, resumes at three quarters of it."""
        bounds = self._settings.in_flight
        by_time = bounds.seconds * self._tokens_per_second / self._accounting.mean_tokens
        with self._holdings.lock:
            holdings = self._holdings
            # What commits that come in time cover is not counted; where they fail, what a crash repeats must not grow.
            repeated = holdings.unsettled() if self.commits_fail_since is None else holdings.uncommitted()
            share = max(holdings.records / by_time, repeated / bounds.records, holdings.bytes / bounds.bytes)
        if not self._paused and (draining or share >= 1):
            self._transport.pause()
            self._paused = True
        elif self._paused and not draining and share < RESUME_SHARE:
            self._transport.resume()
            self._paused = False
        self._accounting.paused(self._paused)

    def commit(self) -> None:
        """Every `commit_interval`, in the background: the frontiers of what is acknowledged; with nothing in flight
        the reader's position, so that transaction markers and compacted holes leave no lag."""
        positions = self._transport.positions()
        with self._holdings.lock:
            self._holdings.advance(positions)
        if self._settings.delivery == "exactly_once":
            return  # offsets go with the results' transaction
        now = time.monotonic()
        if self._pending() or now - self._committed_at < self._settings.commit_interval:
            return
        with self._holdings.lock:
            offsets = self._holdings.committable()
        if offsets:
            self._commit = (offsets, self._transport.commit(offsets))
        else:
            self.commits_fail_since = None
        self._committed_at = now

    def drained(self) -> bool:
        """Whether all that a device had begun is delivered and committed."""
        with self._holdings.lock:
            settled = self._holdings.handed == 0 and not self._holdings.committable()
        return settled and not self._pending()

    def read_again(self, why: str) -> None:
        """Drops everything in flight and reads it again from the committed offsets. Raises TransportFault when that
        has not helped several times over, or for as long as an outage may last."""
        now, progress = time.monotonic(), self._accounting.acknowledged
        if progress != self._acknowledged or not self._rewinds:
            self._rewinds, self._progressed_at, self._acknowledged = 0, now, progress
        self._rewinds += 1
        lasted = now - self._progressed_at
        for_good = self._rewinds > REWINDS_WITHOUT_PROGRESS and lasted < self._rewinds * AT_ONCE
        if for_good or lasted > self._settings.kafka.outage_deadline:
            raise TransportFault(f"delivery failed {self._rewinds} times in {lasted:.0f} s without progress: {why}")
        log.warning("reading again from the committed offsets: %s", why)
        self._commit = self.commits_fail_since = None
        with self._holdings.lock:
            self._holdings.lost(self._holdings.partitions)
        positions = self._transport.recover()
        with self._holdings.lock:
            self._holdings.assigned(positions)
        self._accounting.rewound()

    def _pending(self) -> bool:
        """Whether a commit is still on its way; takes note of one that has ended, and since when none has succeeded."""
        if self._commit is None:
            return False
        offsets, answer = self._commit
        if not answer.done():
            if time.monotonic() - self._committed_at > SLOW_COMMIT:
                self._note_failing()
            return True
        self._commit = None
        error = answer.exception()
        if error is None:
            self.commits_fail_since = None
            with self._holdings.lock:
                self._holdings.committed(offsets)
        elif isinstance(error, TransportFault):  # another worker took over
            raise error
        else:
            self._note_failing()
            if not isinstance(error, CommitRefused):
                log.warning("commit failed, will be tried again: %s", error)
        owned = set(self._holdings.partitions)
        self._accounting.commit_ended({tp: at for tp, at in offsets.items() if tp in owned}, error)
        return False

    def _note_failing(self) -> None:
        if self.commits_fail_since is None:
            self.commits_fail_since = self._committed_at
