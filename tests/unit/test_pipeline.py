"""The whole pipeline over Kafka in memory: nothing lost, everything in order, whatever moves, waits or ends."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future

import pytest

from tests.fakes.engine import FakeEngine, MeetingEngine
from tests.fakes.worker import (
    DEAD_LETTERS,
    INPUT,
    OUTPUT,
    FakeWorker,
    assert_all_once,
    assert_in_order,
    assert_right_labels,
    dead_sources,
    feed,
    make_broker,
    outcomes,
    sources,
    visible,
    wait_until,
)
from worker import metrics as m
from worker.holdings import Holdings
from worker.membership import Membership
from worker.transport.interface import CommitRefused, DeliveryFailed, Offsets, TopicPartition
from worker.transport.memory import MemoryTransport
from worker.work import Work

MODES = ["at_least_once", "exactly_once"]


@pytest.mark.parametrize("delivery", MODES)
def test_every_record_comes_out_once_in_order_with_its_own_label(delivery: str) -> None:
    broker = make_broker()
    feed(broker, 2000, bad=lambda number: number % 50 == 0)
    with FakeWorker(broker, delivery=delivery) as worker:
        wait_until(lambda: outcomes(broker) == 2000, "2000 outcomes")
        wait_until(lambda: sum(worker.committed.values()) == 2000, "the last commit")
        assert_all_once(broker, 2000)
        assert_in_order(broker)
        assert_right_labels(broker)
        assert len(visible(broker, DEAD_LETTERS)) == 40
        wait_until(lambda: worker.metrics.value(m.LABELLED) == 1960, "the count")  # after the commit
        assert worker.metrics.value(m.REJECTED) == 40
        assert worker.pipeline.error is None


def test_several_devices_keep_the_order() -> None:
    broker = make_broker()
    feed(broker, 2000)
    engines = [FakeEngine(200, 1e5), FakeEngine(100, 3e4), FakeEngine(50, 1e6)]
    with FakeWorker(broker, engines):
        wait_until(lambda: outcomes(broker) == 2000, "2000 outcomes")
        assert all(engine.batches for engine in engines)
        assert_all_once(broker, 2000)
        assert_in_order(broker)


def test_what_comes_at_once_keeps_every_device_busy() -> None:
    broker = make_broker()
    all_busy = threading.Barrier(4)
    with FakeWorker(broker, [MeetingEngine(all_busy) for _ in range(4)]) as worker:
        wait_until(lambda: worker.health.joined, "joining")
        with broker.changed:
            feed(broker, 100)
        wait_until(lambda: outcomes(broker) == 100 or worker.pipeline.error is not None, "100 outcomes")
        assert_all_once(broker, 100)


def test_what_keeps_a_device_from_the_queue_is_counted_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    delay, hand_over = 0.002, Holdings.hand_over

    def slowly(self: Holdings, work: Work) -> bool:
        time.sleep(delay)  # what is tested: time lost between asking for a batch and beginning it
        return hand_over(self, work)

    monkeypatch.setattr(Holdings, "hand_over", slowly)
    broker = make_broker()
    begin = time.monotonic()
    with FakeWorker(broker) as worker:
        wait_until(lambda: worker.health.joined, "joining")
        feed(broker, 100)
        wait_until(lambda: worker.metrics.value(m.LABELLED) == 100, "100 results")
        idle, busy = worker.metrics.value(m.DEVICE_STARVED), worker.metrics.value(m.DEVICE_BUSY)
    assert 100 * delay <= idle <= time.monotonic() - begin - busy


@pytest.mark.parametrize("delivery", MODES)
def test_drain_finishes_what_was_begun_and_a_successor_does_the_rest_once(delivery: str) -> None:
    broker = make_broker()
    feed(broker, 3000, bad=lambda number: number % 40 == 0)
    with FakeWorker(broker, [FakeEngine(200, 1e5)], delivery=delivery) as first:
        wait_until(lambda: outcomes(broker) > 300, "300 outcomes")
        first.drain()
        assert first.pipeline.error is None
        written = sources(visible(broker, OUTPUT)) + dead_sources(broker)
        assert 300 < len(written) < 3000
        for partition in range(4):
            last = max((offset for number, offset in written if number == partition), default=-1)
            assert first.committed[TopicPartition(INPUT, partition)] == last + 1
    with FakeWorker(broker, delivery=delivery) as second:
        wait_until(lambda: sum(second.committed.values()) == 3000, "the last commit")
        assert_all_once(broker, 3000)
        assert_in_order(broker)


def test_what_is_in_flight_is_bounded_while_the_broker_does_not_answer() -> None:
    broker = make_broker()
    broker.hold_acks = True
    feed(broker, 5000)
    with FakeWorker(broker, in_flight={"records": 600}) as worker:
        wait_until(lambda: worker.metrics.value(m.PAUSED) > 0.2, "the pause")
        assert 600 <= worker.metrics.value(m.CONSUMED) <= 600 + 2000  # one poll may overshoot
        assert not any(worker.committed.values())
        broker.hold_acks = False
        wait_until(lambda: sum(worker.committed.values()) == 5000, "the last commit")
        assert_all_once(broker, 5000)


def test_what_is_done_behind_a_record_that_is_not_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = make_broker()
    held: list[Work] = []
    delivered = Membership.delivered

    def hold_letter(membership: Membership, work: Work, error: DeliveryFailed | None) -> None:
        held.append(work) if work.rejection else delivered(membership, work, error)

    monkeypatch.setattr(Membership, "delivered", hold_letter)
    feed(broker, 5000, bad=lambda number: number == 3)
    with FakeWorker(broker, in_flight={"records": 600}) as worker:
        wait_until(lambda: held and worker.metrics.value(m.PAUSED) > 0.2, "the pause")
        assert worker.metrics.value(m.CONSUMED) <= 600 + 2000  # one poll may overshoot
        assert worker.committed[TopicPartition(INPUT, 3)] == 0
        delivered(worker.transport._listener, held[0], None)
        wait_until(lambda: sum(worker.committed.values()) == 5000, "the last commit")
        assert_all_once(broker, 5000)


def test_what_a_crash_would_repeat_is_bounded_while_commits_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    commit, fails = MemoryTransport.commit, True

    def failing(transport: MemoryTransport, offsets: Offsets) -> Future[None]:
        if not fails:
            return commit(transport, offsets)
        answer: Future[None] = Future()
        answer.set_exception(CommitRefused("not now"))
        return answer

    monkeypatch.setattr(MemoryTransport, "commit", failing)
    broker = make_broker()
    feed(broker, 20_000)
    with FakeWorker(broker, [FakeEngine(200, 1e5)], in_flight={"records": 600}) as worker:
        wait_until(lambda: worker.metrics.value(m.PAUSED) > 0.2, "the pause")
        wait_until(lambda: outcomes(broker) == worker.metrics.value(m.CONSUMED), "what was begun")
        assert worker.metrics.value(m.CONSUMED) < 10_000
        fails = False
        wait_until(lambda: sum(worker.committed.values()) == 20_000, "the last commit")
        assert_all_once(broker, 20_000)


@pytest.mark.parametrize("delivery", MODES)
def test_partitions_move_between_workers_without_loss(delivery: str) -> None:
    broker = make_broker()
    feed(broker, 4000)
    slow = FakeEngine(200, 2e5)
    with FakeWorker(broker, [slow], delivery=delivery) as first:
        wait_until(lambda: outcomes(broker) > 200, "200 outcomes")
        with FakeWorker(broker, delivery=delivery) as second:
            wait_until(lambda: second.metrics.value(m.OWNED) == 2, "the move")
            wait_until(lambda: sum(first.committed.values()) == 4000, "the last commit")
            wait_until(lambda: second.metrics.value(m.LABELLED) > 0, "labels of the second")  # counted after the commit
            assert first.pipeline.error is None and second.pipeline.error is None
            assert_all_once(broker, 4000)
            assert_in_order(broker)


def test_tombstones_pass_in_order_when_forwarded() -> None:
    broker = make_broker(1)
    broker.append(INPUT, 0, b"k", b'{"review_id":"1","text":"fine"}')
    broker.append(INPUT, 0, b"k", None, (("h", None),))
    with FakeWorker(broker, input={"tombstones": "forward"}) as worker:
        wait_until(lambda: sum(worker.committed.values()) == 2, "the last commit")
        first, second = visible(broker, OUTPUT)
        assert first.value is not None and second.value is None and second.key == b"k"
        assert second.headers[0] == ("h", None)
        assert worker.metrics.value(m.TOMBSTONES, "forward") == 1


def test_skipped_tombstones_are_committed_past() -> None:
    broker = make_broker(1)
    broker.append(INPUT, 0, b"k", None)
    with FakeWorker(broker, input={"tombstones": "skip"}) as worker:
        wait_until(lambda: sum(worker.committed.values()) == 1, "the commit")
        assert outcomes(broker) == 0
