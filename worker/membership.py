"""The transport's listener: partitions that come and go, and what the broker said of each record.

Called from the polling thread or the client's own; never blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from worker.accounting import Accounting
from worker.health import Health
from worker.holdings import Holdings
from worker.transport.interface import DeliveryFailed, Offsets, TopicPartition


class Membership:
    """Keeps the holdings true to what this member owns; hands deliveries on to the publish thread."""

    def __init__(
        self, holdings: Holdings, accounting: Accounting, health: Health, deliver: Callable[[Any], None]
    ) -> None:
        self._holdings = holdings
        self._accounting = accounting
        self._health = health
        self._deliver = deliver
        self._owned: set[TopicPartition] = set()  # the holdings also have those that drain, and none during a rewind

    def assigned(self, positions: Offsets) -> None:
        with self._holdings.lock:
            self._holdings.assigned(positions)
            self._owned.update(positions)
        self._accounting.rebalanced("assigned", positions, len(self._owned))
        self._health.joined = True

    def revoked(self, partitions: Iterable[TopicPartition]) -> Future[Offsets]:
        partitions = list(partitions)
        with self._holdings.lock:
            answer = self._holdings.revoked(partitions)
            self._owned.difference_update(partitions)
        self._accounting.rebalanced("revoked", partitions, len(self._owned))
        return answer

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        partitions = list(partitions)
        with self._holdings.lock:
            self._holdings.lost(partitions)
            self._owned.difference_update(partitions)
        self._accounting.rebalanced("lost", partitions, len(self._owned))

    def delivered(self, token: Any, error: DeliveryFailed | None) -> None:
        self._deliver((token, error))
