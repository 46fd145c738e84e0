"""An hour without reviews, by a clock of the test's own, through the whole pipeline."""

from __future__ import annotations

import pytest

from tests.fakes.clock import Clock
from tests.fakes.worker import INPUT, FakeWorker, make_broker, wait_until
from worker import accounting, delivery, intake, pipeline
from worker import metrics as m


@pytest.mark.parametrize("mode", ["at_least_once", "exactly_once"])
def test_an_hour_on_an_idle_topic_is_no_fault(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, step = Clock(), 8.0  # seconds; the worker's limits are 10
    for module in (accounting, delivery, intake, pipeline):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(pipeline, "OBSERVE_SECONDS", 0.001)
    monkeypatch.setattr(intake, "POLL_SECONDS", 0.001)
    broker = make_broker()
    with FakeWorker(broker, delivery=mode) as worker:
        seen = worker.health._busy_since
        while clock.now < 1000.0 + 3600.0:
            clock.now += step
            wait_until(lambda: seen.get("consume") == seen.get("observe") == clock.now, "a round of both")
            assert worker.health.alive(clock.now) and worker.pipeline.error is None
        assert worker.metrics.value(m.BLOCKED) == 0
        broker.append(INPUT, 0, b"k", b'{"review_id": 1, "text": "fine"}')

        def committed() -> bool:
            clock.now += 0.1
            return sum(worker.committed.values()) == 1

        wait_until(committed, "the next review")
