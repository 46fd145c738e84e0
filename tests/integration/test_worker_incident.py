"""`review-worker offsets` on the group of a worker that ran past an incident: back to a time, and past a range."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from kafka import KafkaProducer

from tests.fakes.stream import StartWorker, Stream, event, places, run_until, send
from tests.fakes.tools import put
from worker.configuration import ConfigurationError
from worker.tools.process import WorkerProcess

HOUR = 3600.0


def send_at(stream: Stream, times: Iterable[float]) -> None:
    """Sends a review of each time, as `send` does now."""
    producer = KafkaProducer(bootstrap_servers=stream["kafka.bootstrap_servers"])
    try:
        for number, at in enumerate(times):
            key, value, _ = event(number, "fine")
            producer.send(stream["kafka.input_topic"], value, key, partition=number % 4, timestamp_ms=int(at * 1000))
        producer.flush(30)
    finally:
        producer.close(timeout=1)


def test_a_group_goes_back_to_a_time_and_then_past_a_range(
    worker: StartWorker, stream: Stream, tool: Callable[..., dict[str, Any]]
) -> None:
    settings, now = {**stream, "engine.device": "simulated"}, time.time()
    send_at(stream, [now - (2 if number < 30 else 1) * HOUR + number for number in range(60)])
    sent = [(number % 4, number // 4) for number in range(60)]

    def refused(process: WorkerProcess) -> None:
        with pytest.raises(ConfigurationError, match="is running: stop its workers first"):
            tool("offsets", "set", "--to", "earliest")

    results, letters = run_until(worker, settings, 60, refused)
    assert sorted(places(results)) == sorted(sent) and not letters

    tool("offsets", "set", "--to", datetime.fromtimestamp(now - 1.5 * HOUR, UTC).isoformat())
    results, letters = run_until(worker, settings, 60)
    assert sorted(places(results)) == sorted(sent + sent[30:]) and not letters

    put(stream, stream["kafka.input_topic"], [(2, b"bad", b"not json", ())] * 10)  # from 15 on
    send(stream, (event(number, "fine") for number in range(60, 78)))
    later = [(number % 4, number // 4 + (10 if number % 4 == 2 else 0)) for number in range(60, 78)]
    tool("offsets", "set", "--to", "25", "--partition", "2")
    results, letters = run_until(worker, settings, 88)
    assert sorted(places(results)) == sorted(sent + sent[30:] + later) and not letters
