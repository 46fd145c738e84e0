"""Commits and results whose answer never comes, though a broker is there."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from tests.fakes.worker import INPUT, FakeWorker, make_broker
from worker import metrics as m
from worker import pipeline
from worker.transport.interface import TransportFault
from worker.transport.memory import MemoryTransport


def test_a_commit_without_an_answer_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTransport, "commit", lambda self, offsets: Future())
    broker = make_broker()
    broker.append(INPUT, 0, b"k", b'{"review_id": 1, "text": "fine"}')
    with FakeWorker(broker, kafka={"outage_deadline": 0.3}) as worker:
        assert worker.pipeline.wait(10)
        assert isinstance(worker.pipeline.error, TransportFault)


def test_results_that_nobody_acknowledges_end_the_worker_though_a_broker_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pipeline, "LAG_SECONDS", 0.5)
    broker = make_broker()
    broker.hold_acks = True
    broker.append(INPUT, 0, b"k", b'{"review_id": 1, "text": "fine"}')
    with FakeWorker(broker, kafka={"outage_deadline": 3.0}) as worker:
        assert worker.pipeline.wait(10)
        assert "over kafka.outage_deadline" in str(worker.pipeline.error)
        assert worker.metrics.value(m.BLOCKED) > 0 and not any(worker.committed.values())
    said = [record.message for record in caplog.records if "blocked" in record.message]
    assert said == ["blocked: nothing that was sent is acknowledged"]
