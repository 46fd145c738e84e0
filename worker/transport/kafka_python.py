"""The transport over kafka-python 3.0.12, at least once.

Where the client's own methods are known to lose data or to block (see the comments), its inner ones are used: the
conformance suite shows that they do what they are used for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from kafka import KafkaConsumer, errors
from kafka import TopicPartition as KafkaPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from worker.settings import Settings
from worker.transport.interface import (
    CommitRefused,
    Listener,
    Offsets,
    Outgoing,
    Record,
    TopicInfo,
    TopicPartition,
    TransportConfigurationError,
    TransportFault,
    TransportUnavailable,
)
from worker.transport.kafka_python_client import (
    client_config,
    describe_topic,
    never_create_topics,
    reaching,
    result,
    to_record,
)
from worker.transport.kafka_python_group import Lookup, committable, free_parked_buffers, leave, mend
from worker.transport.kafka_python_producer import Producer, open_client
from worker.transport.kafka_python_rebalances import Rebalances
from worker.transport.start import out_of_range, starting_offsets

T = TypeVar("T")

SETTLE_SECONDS = 5.0  # for what takes none
POLL_SECONDS = 0.05  # shorter polls in a row never join a group
LATEST = -1
PASSING = (  # with the next polls; the last may name a broker that has just left the cluster
    errors.RetriableError,
    errors.RebalanceInProgressError,
    errors.UnknownMemberIdError,
    errors.IllegalGenerationError,
    errors.CommitFailedError,
    errors.UnknownBrokerIdError,
    TimeoutError,
)


class KafkaPythonTransport:
    """One member of the group, and one idempotent producer. The client has a thread for each."""

    name = "kafka-python"

    def __init__(self, settings: Settings) -> None:
        self._settings, self._kafka = settings, settings.kafka
        self._paused = self._closing = False

    def connect(self, timeout: float) -> None:
        kafka, in_flight = self._kafka, self._settings.in_flight
        fetch_bytes = max(2**20, min(16 * 2**20, in_flight.bytes // 8))  # the client holds up to twice this a broker
        with reaching(kafka, timeout):
            self._consumer = KafkaConsumer(
                **client_config(kafka),
                bootstrap_timeout_ms=int(timeout * 1000),
                group_id=kafka.group_id,
                group_instance_id=kafka.instance_id,
                session_timeout_ms=int(kafka.session_timeout * 1000),
                heartbeat_interval_ms=int(kafka.heartbeat_interval * 1000),
                max_poll_interval_ms=int(kafka.max_poll_interval * 1000),
                partition_assignment_strategy=(CooperativeStickyAssignor,),
                enable_auto_commit=False,
                auto_offset_reset="none",
                isolation_level="read_committed",
                fetch_max_wait_ms=100,  # a partition new to us waits for the fetch that is going on
                fetch_max_bytes=fetch_bytes,
                max_partition_fetch_bytes=2**20,
                receive_message_max_bytes=2**31 - 1,  # what a topic accepts must be readable
                max_poll_records=min(1000, in_flight.records),
                metrics_enabled=False,
            )
        never_create_topics(self._consumer._client)
        mend(self._consumer)
        self._lookup = Lookup(self._consumer)

    def topic(self, name: str, timeout: float) -> TopicInfo | None:
        with reaching(self._kafka, timeout):
            try:
                return describe_topic(self._consumer._manager, name, timeout)
            except TimeoutError as error:
                raise TransportUnavailable(f"Kafka did not describe the topic {name} within {timeout:g} s") from error

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        self._listener = listener
        self._producer = self._open_producer()
        self._rebalances = Rebalances(self._consumer, listener, self._kafka.max_poll_interval, lambda: self._closing)
        self._consumer.subscribe(topics=list(topics), listener=self._rebalances)

    def _open_producer(self) -> Producer:
        version = self._consumer.config["api_version"]  # spares the new client a wait for the broker
        return Producer(open_client(self._kafka, api_version=version), self._listener.delivered)

    def joined(self) -> bool:
        return bool(self._consumer._coordinator.stable())

    def poll(self, timeout: float) -> list[Record]:
        free_parked_buffers(self._consumer)
        batches: dict[KafkaPartition, list[Any]] = {}
        try:
            batches = self._poll_client(max(timeout, POLL_SECONDS))
            self._raise_if_fenced()
            if self._rebalances.unsettled:
                self._settle()
        except PASSING:
            pass  # the next poll tries again
        except (errors.KafkaError, RuntimeError) as error:
            if not self._closing:
                raise self._fault(error) from (error.__cause__ or error)
        return [to_record(record) for batch in batches.values() for record in batch]

    def _poll_client(self, timeout: float) -> dict[KafkaPartition, list[Any]]:
        before = self.positions()
        try:
            return dict(self._consumer.poll(timeout_ms=int(timeout * 1000)))
        except errors.NoOffsetForPartitionError:
            return {}  # of a partition that is yet to be settled
        except BaseException:  # then the client may have passed over records without returning them
            self._seek({tp: before[tp] for tp in before.keys() & self.positions().keys()})
            raise

    def _seek(self, positions: Offsets) -> Offsets:
        """Returns those that are still ours: joins end on the client's thread, whatever goes on meanwhile."""
        sought = {}
        for tp, offset in positions.items():
            with suppress(ValueError):  # of a partition that is not assigned
                self._consumer.seek(KafkaPartition(*tp), offset)
                sought[tp] = offset
        return sought

    def _fault(self, error: Exception) -> Exception:
        kafka = self._kafka
        if isinstance(error, errors.OffsetOutOfRangeError):
            partition, offset = next((TopicPartition(*tp), offset) for tp, offset in error.args[0].items())
            first, end = (find([partition])[partition] for find in (self._lookup.beginning, self._lookup.end))
            return out_of_range(self._kafka.group_id, partition, offset, first, end)
        if isinstance(error, errors.FencedInstanceIdError):
            return TransportFault(
                f"another worker with the instance id {kafka.instance_id} took over in the group {kafka.group_id}"
            )
        if isinstance(error, errors.InvalidSessionTimeoutError):
            return TransportConfigurationError(
                f"kafka.session_timeout {kafka.session_timeout:g} s is outside what the brokers allow "
                "(group.min.session.timeout.ms, group.max.session.timeout.ms)"
            )
        return TransportFault(f"cannot go on in the group {kafka.group_id}: {error}")

    def _raise_if_fenced(self) -> None:
        """A static member that was replaced gets no error, it only stops sending heartbeats."""
        coordinator = self._consumer._coordinator
        if self._kafka.instance_id and coordinator.stable() and not coordinator._heartbeat_enabled:
            raise errors.FencedInstanceIdError

    def _settle(self) -> None:
        """Finds out where to read what was assigned, tells the listener, and only then lets it be fetched."""
        changes = self._rebalances.changes
        partitions = set(self._rebalances.unsettled)
        positions = starting_offsets(partitions, self._kafka.start, self._lookup, self._lookup.commit)

        def settle() -> None:  # on the client's thread, where alone partitions come and go
            if self._rebalances.changes == changes:  # else the next poll asks again: an offset may be out of date
                self._seek(positions)
                self._rebalances.unsettled -= partitions
                self._listener.assigned(positions)
                if not self._paused:
                    self._consumer.resume(*(KafkaPartition(*tp) for tp in partitions))

        result(self._consumer._manager.call_soon(settle), SETTLE_SECONDS)

    def pause(self) -> None:
        self._paused = True
        self._consumer.pause(*self._consumer.assignment())

    def resume(self) -> None:
        self._paused = False
        self._consumer.resume(*self._consumer.assignment().difference(self._rebalances.unsettled))

    def positions(self) -> Offsets:
        consumed = self._consumer._subscription.all_consumed_offsets()
        return {TopicPartition(*tp): at.offset for tp, at in consumed.items() if tp not in self._rebalances.unsettled}

    def end_offsets(self, timeout: float) -> Offsets:
        consumer = self._consumer
        ask = dict.fromkeys(consumer.assignment(), LATEST)
        try:
            lookup = consumer._manager.call_soon(consumer._fetcher._fetch_offsets_by_times_async, ask, timeout * 1000)
            return {TopicPartition(*tp): found.offset for tp, found in result(lookup, timeout).items()}
        except (errors.KafkaError, TimeoutError, RuntimeError):
            return {}

    def commit(self, offsets: Offsets) -> Future[None]:
        answer: Future[None] = Future()

        async def send() -> None:
            # On the client's thread, where alone the assignment and the generation change: the broker would accept
            # offsets of a partition that has gone to another member, and rewind it.
            try:
                owned = {tp: at for tp, at in offsets.items() if self._consumer._subscription.is_assigned(tp)}
                if offsets and not owned:
                    raise CommitRefused("these partitions belong to another member now")
                await self._consumer._coordinator._send_offset_commit_request(committable(owned))
                answer.set_result(None)
            except BaseException as error:
                answer.set_exception(self._commit_error(error))
                if not isinstance(error, Exception):
                    raise

        try:
            self._consumer._net.call_soon_threadsafe(send)
        except RuntimeError as error:
            answer.set_exception(error)
        return answer

    def _commit_error(self, error: BaseException) -> BaseException:
        if isinstance(error, errors.FencedInstanceIdError):
            return self._fault(error)
        if isinstance(error, errors.CommitFailedError):
            rebalancing = error.args and isinstance(error.args[0], errors.RebalanceInProgressError)
            return error if rebalancing else CommitRefused("the group has moved on without this member")
        return error

    def send(self, record: Outgoing) -> None:
        try:
            self._producer.send(record)
        except errors.KafkaTimeoutError as error:
            raise TransportFault(f"the partitions of topic {record.topic} are unknown: {error}") from error

    def commit_transaction(self, offsets: Offsets, still_owned: Callable[[], bool], timeout: float) -> None:
        raise TransportFault("this transport delivers at least once")

    def recover(self) -> Offsets:
        self._producer.abandon()
        self._producer = self._open_producer()
        owned = {TopicPartition(*tp) for tp in self._consumer.assignment()} - self._rebalances.unsettled
        positions = self._insist(
            "the committed offsets cannot be read",
            lambda: starting_offsets(owned, self._kafka.start, self._lookup, self._lookup.commit),
        )
        return self._seek(positions)

    def _insist(self, problem: str, call: Callable[[], T]) -> T:
        """Repeats `call` while no broker answers, up to the outage deadline."""
        deadline = time.monotonic() + self._kafka.outage_deadline
        while True:
            try:
                return call()
            except PASSING as error:
                if time.monotonic() > deadline or self._closing:
                    raise TransportFault(f"{problem}: {error}") from error
                time.sleep(0.1)

    def close(self, timeout: float) -> None:
        self._closing = True
        if hasattr(self, "_producer"):
            self._producer.abandon()
        if hasattr(self, "_consumer"):
            deadline = time.monotonic() + timeout
            leave(self._consumer, timeout / 2)
            options = {"autocommit": False, "timeout_ms": timeout / 2 * 1000}
            closing = threading.Thread(target=self._consumer.close, kwargs=options, daemon=True)
            closing.start()  # the client joins its own thread without a limit
            closing.join(max(0.0, deadline - time.monotonic()))
