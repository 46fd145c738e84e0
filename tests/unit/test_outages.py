"""Answers that never come, of which a broker that answers other questions must not distract."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from tests.fakes.worker import INPUT, FakeWorker, make_broker
from worker import accounting, pipeline
from worker import metrics as m
from worker.pipeline import Stalled
from worker.transport.interface import TransportFault
from worker.transport.memory import MemoryTransport


def test_a_commit_without_an_answer_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTransport, "commit", lambda self, offsets: Future())
    broker = make_broker()
    broker.append(INPUT, 0, b"k", b'{"review_id": 1, "text": "fine"}')
    with FakeWorker(broker, kafka={"outage_deadline": 0.3}) as worker:
        assert worker.pipeline.wait(10)
        assert isinstance(worker.pipeline.error, TransportFault)


def test_an_output_that_takes_nothing_ends_the_worker_past_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounting, "BLOCKED_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(pipeline, "OBSERVE_SECONDS", 0.02)
    monkeypatch.setattr(pipeline, "LAG_SECONDS", 0.05)  # those the broker answers
    broker = make_broker()
    broker.hold_acks = True
    broker.append(INPUT, 0, b"k", b'{"review_id": 1, "text": "fine"}')
    with FakeWorker(broker, kafka={"outage_deadline": 1.0}) as worker:
        assert worker.pipeline.wait(10)
        assert isinstance(worker.pipeline.error, Stalled) and "outage_deadline" in str(worker.pipeline.error)
        assert worker.metrics.value(m.BLOCKED) > 0.5
        assert not any(worker.committed.values())
