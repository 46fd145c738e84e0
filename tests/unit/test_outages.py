"""Answers that never come, of which a broker that answers other questions must not distract."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from tests.fakes.worker import INPUT, FakeWorker, make_broker
from worker import accounting, intake, pipeline
from worker import metrics as m
from worker.pipeline import Stalled
from worker.transport.interface import CommitRefused
from worker.transport.memory import MemoryTransport


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "SLOW_COMMIT", 0.1)
    monkeypatch.setattr(accounting, "BLOCKED_AFTER_SECONDS", 0.1)
    monkeypatch.setattr(pipeline, "OBSERVE_SECONDS", 0.02)
    monkeypatch.setattr(pipeline, "LAG_SECONDS", 0.05)  # those the broker answers


def refused() -> Future[None]:
    answer: Future[None] = Future()
    answer.set_exception(CommitRefused("not now"))
    return answer


@pytest.mark.parametrize("answer", [Future, refused])
def test_commits_that_never_succeed_block_and_end_the_worker(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Future[None]]
) -> None:
    monkeypatch.setattr(MemoryTransport, "commit", lambda self, offsets: answer())
    broker = make_broker()
    broker.append(INPUT, 0, b"k", b'{"review_id": 1, "text": "fine"}')
    with FakeWorker(broker, kafka={"outage_deadline": 1.0}) as worker:
        assert worker.pipeline.wait(10)
        assert isinstance(worker.pipeline.error, Stalled) and "outage_deadline" in str(worker.pipeline.error)
        assert worker.metrics.value(m.BLOCKED) > 0.5


def test_an_output_that_takes_nothing_ends_the_worker_past_the_deadline() -> None:
    broker = make_broker()
    broker.hold_acks = True
    broker.append(INPUT, 0, b"k", b'{"review_id": 1, "text": "fine"}')
    with FakeWorker(broker, kafka={"outage_deadline": 1.0}) as worker:
        assert worker.pipeline.wait(10)
        assert isinstance(worker.pipeline.error, Stalled) and "outage_deadline" in str(worker.pipeline.error)
        assert worker.metrics.value(m.BLOCKED) > 0.5
        assert not any(worker.committed.values())
