"""Partitions that come and go over kafka-python 3.0.12: what is told to the pipeline, and waited for, when.

All of it runs on the client's thread, which heartbeats share: nothing here blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from kafka import AsyncConsumerRebalanceListener, KafkaConsumer, errors
from kafka import TopicPartition as KafkaPartition

from worker.transport.interface import Listener, TopicPartition
from worker.transport.kafka_python_group import committable


class Rebalances(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Assigned partitions are paused and `unsettled` until the polling thread knows where to read them."""

    def __init__(
        self, consumer: KafkaConsumer, listener: Listener, max_poll_interval: float, closing: Callable[[], bool]
    ) -> None:
        self._consumer, self._listener, self._closing = consumer, listener, closing
        self._bound = max(5.0, 0.2 * max_poll_interval)
        self.unsettled: set[TopicPartition] = set()
        self.changes = 0  # how often partitions came or went

    async def on_partitions_revoked(self, revoked: Iterable[KafkaPartition]) -> None:
        """Lets the listener drain and commits its answer, before the group may hand the partitions on."""
        known = self._settled(revoked)
        if not known or self._closing():
            return
        deadline = time.monotonic() + self._bound
        answer = self._listener.revoked(known)
        while not answer.done() and not self._closing() and time.monotonic() < deadline:
            await self._consumer._net.sleep(0.005)
        if not answer.done():
            self._listener.lost(known)
            return
        offsets = {tp: offset for tp, offset in answer.result().items() if tp in known}
        while offsets and not self._closing() and time.monotonic() < deadline:
            try:
                await self._consumer._coordinator._send_offset_commit_request(committable(offsets))
                return
            except (errors.RetriableError, errors.RebalanceInProgressError):
                await self._consumer._net.sleep(0.1)
            except errors.KafkaError:
                return  # the group has moved on: the new owner reads these again

    async def on_partitions_assigned(self, assigned: Iterable[KafkaPartition]) -> None:
        self.changes += 1
        self._consumer.pause(*assigned)
        self.unsettled.update(TopicPartition(*tp) for tp in assigned)

    async def on_partitions_lost(self, lost: Iterable[KafkaPartition]) -> None:
        known = self._settled(lost)
        if known and not self._closing():
            self._listener.lost(known)

    def _settled(self, gone: Iterable[KafkaPartition]) -> set[TopicPartition]:
        """Those that the listener knows; the others it need not hear of."""
        self.changes += 1
        partitions = {TopicPartition(*tp) for tp in gone}
        known = partitions - self.unsettled
        self.unsettled -= partitions
        return known
