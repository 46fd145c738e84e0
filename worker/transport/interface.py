"""What the pipeline needs of Kafka: one member of one consumer group, and one producer, behind one small interface.

Knows nothing of reviews, models or metrics. Every implementation passes `tests/conformance`. Unless said otherwise a
method is called from the pipeline's consume thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from schemas.headers import Headers


class TopicPartition(NamedTuple):
    topic: str
    partition: int


Offsets = Mapping[TopicPartition, int]
"""Next offset to read, per partition."""


class Record(NamedTuple):
    """One consumed record. `timestamp` is in milliseconds since 1970."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Outgoing(NamedTuple):
    """One record to produce; its timestamp is the time of producing. `token` comes back with its delivery."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    token: Any


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """What a topic is set to; sizes in bytes."""

    partitions: int
    max_message_bytes: int
    cleanup_policy: str
    min_insync_replicas: int = 1
    replication_factor: int = 1
    retention_ms: int = -1


class TransportUnavailable(Exception):
    """No broker answered in time, when starting."""


class TransportConfigurationError(Exception):
    """The broker answered and what was asked of it cannot be: bad credentials, a setting it refuses."""


class TransportFault(Exception):
    """The client cannot go on: fenced, an offset out of range, a fatal error. Ends the worker with exit 1."""


class CommitRefused(Exception):
    """The group has moved on: these offsets are another member's business now. Nothing is lost by dropping them."""


class DeliveryFailed(Exception):
    """The broker did not take a record. `too_large` where a retry can never help."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        super().__init__(message)
        self.too_large = too_large


class TransactionAborted(Exception):
    """The transaction is not known to be committed. `recover` comes next: it settles it, and its offsets tell the
    outcome, which is all or nothing."""


class Listener(Protocol):
    """The pipeline, as the transport sees it. Calls come from the polling or the client's threads."""

    def assigned(self, positions: Offsets) -> None:
        """These partitions are ours from now on, read from these positions. Must not block."""

    def revoked(self, partitions: Iterable[TopicPartition]) -> Future[Offsets]:
        """These partitions will go to another member. The answer completes once what is in flight is delivered,
        with the offsets to commit before the new owner starts. Must not block; the transport waits, bounded, and
        `poll` does not return meanwhile: complete the answer from another thread. Past the bound `lost` follows."""

    def lost(self, partitions: Iterable[TopicPartition]) -> None:
        """These partitions are gone already; nothing may be committed for them. Must not block."""

    def delivered(self, token: Any, error: DeliveryFailed | None) -> None:
        """The broker has acknowledged, or finally refused, the record sent with this token. Must not block or raise.
        After the first refusal all later records are refused too, until `recover`."""


class Transport(Protocol):
    """One worker's Kafka."""

    name: str
    """The client, as the setting kafka.client names it."""

    def connect(self, timeout: float) -> None:
        """Reaches a broker, or raises TransportUnavailable / TransportConfigurationError within `timeout` seconds."""

    def topic(self, name: str, timeout: float) -> TopicInfo | None:
        """The topic's settings; None where it does not exist. Never creates it. To be asked before `subscribe` of every
        topic that will be written, so that no batch is made larger than it takes."""

    def subscribe(self, topics: Sequence[str], listener: Listener) -> None:
        """Joins the group. First start, new partitions and offsets out of range are settled by the start rules."""

    def poll(self, timeout: float) -> list[Record]:
        """Records of the partitions owned, in order within each; waits up to `timeout` seconds for the first.
        Keeps the membership alive and calls the listener. Raises TransportFault."""

    def joined(self) -> bool:
        """Whether this worker is a member of its group now, whether or not it owns partitions. Does not block."""

    def pause(self) -> None:
        """Stops fetching from the whole assignment, now and after any rebalance; polling goes on."""

    def resume(self) -> None:
        """Ends `pause`; without effect when not paused."""

    def positions(self) -> Offsets:
        """For every partition owned, the offset after the last one that `poll` has returned or passed over
        (transaction markers, compacted holes). Does not block."""

    def end_offsets(self, timeout: float) -> Offsets:
        """First offset not yet readable (read committed) of every partition owned. Called from any thread;
        empty when the broker does not answer in time."""

    def commit(self, offsets: Offsets) -> Future[None]:
        """At least once: commits in the background, while `poll` goes on. The future raises CommitRefused, or another
        error: try again."""

    def send(self, record: Outgoing) -> None:
        """Hands a record to the idempotent producer (acks=all); the outcome comes to `Listener.delivered`, in order
        within a partition. Called from the publish thread only; may block while the producer's buffer is full,
        up to the outage deadline. In exactly-once delivery a transaction is begun where none is open."""

    def commit_transaction(self, offsets: Offsets, still_owned: Callable[[], bool], timeout: float) -> None:
        """Exactly once: flushes (so that all is reported to `delivered`), then reads group metadata and asks
        `still_owned` in one step, and commits results and offsets together. `still_owned` may be called from another
        thread. Raises TransactionAborted, or TransportFault where another worker took over. Called from the publish
        thread only. Does nothing where no transaction is open and `offsets` is empty."""

    def recover(self) -> Offsets:
        """After a failed delivery or an aborted transaction: a new producer, and every owned partition read again
        from its committed offset; returns those. Deliveries of the old producer are no longer reported once it has
        returned; so hold no lock that `Listener.delivered` takes. Not while `send` or `commit_transaction` runs.
        Waits for a broker up to the outage deadline; then, or where another worker took over, TransportFault."""

    def close(self, timeout: float) -> None:
        """Leaves the group and closes both clients, within `timeout` seconds; the listener hears no more. Called
        once, from any thread; a `poll` going on in another returns."""
