"""A group's consumer over kafka-python 3.0.12: two of its defects mended, and the offset lookups of the start rules.

Knows nothing of producing.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from typing import Any

from kafka import KafkaConsumer, errors
from kafka import TopicPartition as KafkaPartition
from kafka.coordinator.base import DEFAULT_GENERATION_ID
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.protocol.consumer import LeaveGroupRequest
from kafka.structs import OffsetAndMetadata

from worker.transport.interface import Offsets, TopicPartition
from worker.transport.kafka_python_client import result

LOOKUP_MS = 10_000


class Coordinator(ConsumerCoordinator):  # type: ignore[misc]
    """Finishes a join that ends between two polls, notices added partitions whoever leads the group, gives up what it
    owned under another member id, and claims nothing that it has lost.

    The client starts such a join anew, or, where it was new metadata that made it join, forgets it: then it owns
    nothing, sends no heartbeats, and never joins again.
    """

    _join: _Join | None = None
    _member = ""  # its id when it last joined
    leaving = False

    def need_rejoin(self) -> bool:
        return not self.leaving and (self._join is not None or bool(super().need_rejoin()))

    def group_protocols(self) -> Any:
        """The client claims what it was last assigned, lost since or not, and the group's leader then gives it that at
        once, while the member that has it by now is yet to commit what it has done."""
        kept = self._generation.generation_id != DEFAULT_GENERATION_ID
        for assignor in self._assignors.values():
            assignor.member_assignment = list(self._subscription.assigned_partitions()) if kept else None
        return super().group_protocols()

    async def _on_join_complete_async(self, generation: Any, member_id: str, *arguments: Any) -> None:
        first, renamed = not self._member, member_id != self._member
        self._member = member_id
        if renamed and (owned := set(self._subscription.assigned_partitions())):
            # It was thrown out and let in again in one go, of which the client makes nothing: others may have owned
            # these partitions meanwhile.
            await self._invoke_rebalance_listener_async("on_partitions_lost", owned)
            self._subscription.assign_from_subscribed([])
        await super()._on_join_complete_async(generation, member_id, *arguments)
        if self.group_instance_id and not self._is_leader:
            # A static member that comes back as the group's leader is not told so, and then nobody would notice
            # partitions that are added: each looks for them itself, and the first time for those that it has missed.
            self._assignment_snapshot = {} if first else self._metadata_snapshot

    @property
    def _join_task(self) -> _Join | None:
        return self._join

    @_join_task.setter
    def _join_task(self, task: Any) -> None:
        self._join = task and _Join(task)


class _Join:
    """A join under way, or ended with a result that nobody has taken yet: never done, so that it is waited for."""

    is_done = False

    def __init__(self, task: Any) -> None:
        self.add_callback, self.add_errback = task.add_callback, task.add_errback


def mend(consumer: KafkaConsumer) -> None:
    """To be called once, before the consumer subscribes."""
    consumer._coordinator.__class__ = Coordinator


def leave(consumer: KafkaConsumer, timeout: float) -> None:
    """To be called before the consumer is closed, from any thread. While a join is under way the broker reads nothing
    more from its connection: then another one carries the leave."""
    coordinator, cluster = consumer._coordinator, consumer._cluster
    coordinator.leaving = True
    if coordinator._join is None or coordinator.group_instance_id or not coordinator._generation.has_member_id():
        return
    member = LeaveGroupRequest.MemberIdentity(member_id=coordinator._generation.member_id)
    request = LeaveGroupRequest(group_id=coordinator.group_id, member_id=member.member_id, members=[member])
    home = cluster.broker_metadata(coordinator.coordinator_id)
    for broker in cluster.brokers():
        if home is not None and (broker.host, broker.port) == (home.host, home.port):
            with suppress(errors.KafkaError, TimeoutError, RuntimeError):
                result(consumer._manager.call_soon(consumer._manager.send, request, broker.node_id), timeout)


def free_parked_buffers(consumer: KafkaConsumer) -> None:
    """To be called before each poll: a paused partition's buffer waits for its turn behind another's, and behind an
    empty one the client lets it wait for good."""
    fetcher = consumer._fetcher
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None


class Lookup:
    """What the rules of the start ask; every answer within ten seconds, or a RetriableError."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def partitions(self, topic: str) -> Collection[TopicPartition]:
        return [TopicPartition(topic, number) for number in self._consumer._cluster.partitions_for_topic(topic) or ()]

    def committed(self, partitions: Collection[TopicPartition]) -> Offsets:
        found = self._consumer._coordinator.fetch_committed_offsets(_native(partitions), timeout_ms=LOOKUP_MS)
        return {TopicPartition(*tp): at.offset for tp, at in found.items()}

    def commit(self, offsets: Offsets) -> None:
        self._consumer._coordinator.commit_offsets_sync(committable(offsets), timeout_ms=LOOKUP_MS)

    def beginning(self, partitions: Collection[TopicPartition]) -> Offsets:
        found = self._consumer.beginning_offsets(_native(partitions), LOOKUP_MS)
        return {TopicPartition(*tp): offset for tp, offset in found.items()}

    def end(self, partitions: Collection[TopicPartition]) -> Offsets:
        found = self._consumer.end_offsets(_native(partitions), LOOKUP_MS)
        return {TopicPartition(*tp): offset for tp, offset in found.items()}

    def at_time(self, partitions: Collection[TopicPartition], timestamp: int) -> Offsets:
        found = self._consumer.offsets_for_times(dict.fromkeys(_native(partitions), timestamp), LOOKUP_MS)
        return {TopicPartition(*tp): at.offset for tp, at in found.items() if at is not None}


def _native(partitions: Collection[TopicPartition]) -> list[KafkaPartition]:
    return [KafkaPartition(*tp) for tp in partitions]


def committable(offsets: Offsets) -> dict[KafkaPartition, OffsetAndMetadata]:
    return {KafkaPartition(*tp): OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()}
