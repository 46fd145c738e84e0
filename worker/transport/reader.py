"""Reads records of a topic outside any group, committing nothing: for tools and tests. Over kafka-python."""

from __future__ import annotations

import time
from collections.abc import Iterator

from kafka import KafkaConsumer, errors
from kafka import TopicPartition as KafkaPartition

from worker.settings import KafkaSettings
from worker.transport.interface import Offsets, Record, TransportFault, TransportUnavailable
from worker.transport.kafka_python_client import client_config, never_create_topics, reaching, to_record

POLL_MS = 500


def read(
    kafka: KafkaSettings, start: Offsets, end: Offsets | None = None, timeout: float = 15.0
) -> Iterator[list[Record]]:
    """Records from `start` on, of committed transactions only, in order within each partition.

    Up to `end` (exclusive), or for ever where there is none; an empty list comes at least every half second, so that
    the caller can look at the clock. Start where a topic no longer holds anything means its beginning. Take offsets
    from `Admin`. TransportUnavailable after `timeout` seconds without a broker, or short of `end` without progress.
    """
    left = {KafkaPartition(*tp): end[tp] if end else None for tp, at in start.items() if end is None or at < end[tp]}
    if not left:
        return
    with reaching(kafka, timeout):
        consumer = KafkaConsumer(
            **client_config(kafka),
            bootstrap_timeout_ms=int(timeout * 1000),
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            fetch_max_wait_ms=100,
            receive_message_max_bytes=2**31 - 1,
            max_poll_records=2000,
            metrics_enabled=False,
        )
    never_create_topics(consumer._client)
    try:
        consumer.assign(list(left))
        for partition in left:
            consumer.seek(partition, start[partition])
        moved_at, before = time.monotonic(), None
        while left:
            batches = consumer.poll(timeout_ms=POLL_MS)
            yield [to_record(r) for tp, batch in batches.items() for r in batch if not left[tp] or r.offset < left[tp]]
            positions = {tp: at.offset for tp, at in consumer._subscription.all_consumed_offsets().items()}
            if end is not None and positions == before and time.monotonic() - moved_at > timeout:
                raise TransportUnavailable(f"Kafka at {kafka.bootstrap_servers} stopped answering")
            if positions != before:
                moved_at, before = time.monotonic(), positions
            done = [tp for tp, to in left.items() if to is not None and positions.get(tp, 0) >= to]
            if done:
                left = {tp: to for tp, to in left.items() if tp not in done}
                consumer.assign(list(left))
    except errors.KafkaError as error:
        raise TransportFault(f"cannot read from Kafka at {kafka.bootstrap_servers}: {error}") from error
    finally:
        consumer.close(autocommit=False, timeout_ms=1000)
