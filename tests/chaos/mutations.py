"""The worker with one guarantee broken on purpose: `python -m tests.chaos.mutations NAME run …`.

Each function patches the product from outside, then its command line runs as usual: the product knows nothing of it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worker.cli import main
from worker.delivery import Delivery
from worker.infer import InferStage
from worker.offsets import OffsetTracker


def commit_before_acknowledgement() -> None:
    """A record counts as done once the client has taken its result, whatever the broker says."""
    send = Delivery.send

    def hasty(self: Any, batch: Sequence[Any]) -> None:
        send(self, batch)
        self._settle([work for work in batch if self._holdings.is_current(work)])

    Delivery.send = hasty  # type: ignore[method-assign]
    Delivery.settle = lambda self, deliveries: None  # type: ignore[method-assign]


def no_epoch_check() -> None:
    """What was read before a rewind or another owner's time is published and counted like the rest."""
    acknowledge = OffsetTracker.acknowledge

    def lenient(self: Any, partition: Any, epoch: int, offset: int) -> bool:
        try:
            return acknowledge(self, partition, epoch, offset)
        except ValueError:
            return False

    OffsetTracker.is_current = lambda self, partition, epoch: partition in self._owned  # type: ignore[method-assign]
    OffsetTracker.acknowledge = lenient  # type: ignore[method-assign]


def neighbours_result() -> None:
    """Each review of a batch gets the scores of the one before it."""
    fill = InferStage._fill
    InferStage._fill = lambda self, works, rows: fill(self, works, np.roll(rows, 1, axis=0))  # type: ignore[method-assign]


def producer_kept_after_abort() -> None:
    """kafka-python's producer is used on after an abort, with the offsets that it still holds."""
    from worker.transport.kafka_python_exactly_once import ExactlyOnceTransport
    from worker.transport.kafka_python_transactions import TransactionalProducer

    open_producer = ExactlyOnceTransport._open_producer

    def keep(self: Any) -> TransactionalProducer:
        if not hasattr(self, "_producer"):
            return open_producer(self)
        producer = self._producer
        producer.abort(15)
        producer.failed, producer.open = None, False
        producer._partitions.clear()
        return producer

    ExactlyOnceTransport._open_producer = keep  # type: ignore[method-assign]
    TransactionalProducer.abandon = lambda self: None  # type: ignore[method-assign]


def group_metadata_unchecked() -> None:
    """Offsets go into the transaction without member and generation: the broker takes them from anybody."""
    from kafka.structs import ConsumerGroupMetadata

    from worker.transport.kafka_python_exactly_once import ExactlyOnceTransport

    ExactlyOnceTransport._membership = lambda self, still_owned: ConsumerGroupMetadata(  # type: ignore[method-assign]
        self._kafka.group_id, -1, "", None
    )


def librdkafka_group_metadata_unchecked() -> None:
    """The same over librdkafka, in its own layout."""
    from worker.transport.librdkafka_exactly_once import LibrdkafkaExactlyOnceTransport

    nobody = (-1).to_bytes(4, sys.byteorder, signed=True)
    LibrdkafkaExactlyOnceTransport._current_membership = (  # type: ignore[method-assign]
        lambda self, still_owned: b"CGMDv2:%s%s\0\0\1" % (nobody, self._kafka.group_id.encode())
    )


MUTATIONS: dict[str, Callable[[], None]] = {
    function.__name__: function
    for function in (
        commit_before_acknowledgement,
        no_epoch_check,
        producer_kept_after_abort,
        group_metadata_unchecked,
        librdkafka_group_metadata_unchecked,
        neighbours_result,
    )
}


def command(mutation: str, folder: Path) -> str:
    """Path of an executable that stands in for `review-worker`."""
    root = Path(__file__).parents[2]
    path = folder / f"review-worker-{mutation}"
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{root}" exec "{sys.executable}" -m {__name__} {mutation} "$@"\n')
    path.chmod(0o755)
    return str(path)


if __name__ == "__main__":
    MUTATIONS[sys.argv.pop(1)]()
    main()
