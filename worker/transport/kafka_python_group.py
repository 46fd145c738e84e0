"""Group membership over kafka-python 3.0.12, with two of its defects mended. Knows nothing of producing."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer
from kafka.coordinator.consumer import ConsumerCoordinator


class Coordinator(ConsumerCoordinator):  # type: ignore[misc]
    """Finishes a join that ends between two polls.

    The client starts such a join anew, or, where it was new metadata that made it join, forgets it: then it owns
    nothing, sends no heartbeats, and never joins again.
    """

    _join: _Join | None = None

    def need_rejoin(self) -> bool:
        return self._join is not None or bool(super().need_rejoin())

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


def free_parked_buffers(consumer: KafkaConsumer) -> None:
    """To be called before each poll: a paused partition's buffer waits for its turn behind another's, and behind an
    empty one the client lets it wait for good."""
    fetcher = consumer._fetcher
    if not fetcher._next_partition_records:
        fetcher._next_partition_records = None
