"""Commits whose answer never comes."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from tests.fakes.worker import INPUT, FakeWorker, make_broker
from worker.transport.interface import TransportFault
from worker.transport.memory import MemoryTransport


def test_a_commit_without_an_answer_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryTransport, "commit", lambda self, offsets: Future())
    broker = make_broker()
    broker.append(INPUT, 0, b"k", b'{"review_id": 1, "text": "fine"}')
    with FakeWorker(broker, kafka={"outage_deadline": 0.3}) as worker:
        assert worker.pipeline.wait(10)
        assert isinstance(worker.pipeline.error, TransportFault)
