"""The whole pipeline over Kafka in memory, when something breaks: nothing lost, and every fault loud."""

from __future__ import annotations

import random
from typing import Any

import pytest

from schemas.dead_letter import unwrap
from tests.fakes.engine import FakeEngine
from tests.fakes.worker import (
    DEAD_LETTERS,
    INPUT,
    OUTPUT,
    FakeWorker,
    assert_all_once,
    assert_in_order,
    dead_sources,
    feed,
    make_broker,
    outcomes,
    sources,
    visible,
    wait_until,
)
from worker import metrics as m
from worker.transport.interface import DeliveryFailed, TopicPartition

MODES = ["at_least_once", "exactly_once"]


@pytest.mark.parametrize("delivery", MODES)
def test_failed_deliveries_are_read_again_and_nothing_is_lost(delivery: str) -> None:
    broker = make_broker()
    feed(broker, 1000)
    chance = random.Random(7)
    failures = 4

    def refuse(record: Any) -> DeliveryFailed | None:
        nonlocal failures
        if failures and chance.random() < 0.01:
            failures -= 1
            return DeliveryFailed("the test refuses it")
        return None

    broker.refuse_produce = refuse
    with FakeWorker(broker, delivery=delivery) as worker:
        wait_until(lambda: sum(worker.committed.values()) == 1000, "the last commit")
        assert failures == 0
        assert set(sources(visible(broker, OUTPUT))) == {(number % 4, number // 4) for number in range(1000)}
        assert worker.metrics.value(m.REWINDS) > 0
        if delivery == "exactly_once":
            assert_all_once(broker, 1000)
            assert_in_order(broker)


def test_aborted_transactions_are_invisible_and_read_again() -> None:
    broker = make_broker()
    broker.abort_commits = 3
    feed(broker, 500)
    with FakeWorker(broker, delivery="exactly_once") as worker:
        wait_until(lambda: sum(worker.committed.values()) == 500, "the last commit")
        assert_all_once(broker, 500)
        assert worker.metrics.value(m.REWINDS) == 3


def test_a_delivery_that_never_works_ends_the_worker() -> None:
    broker = make_broker()
    feed(broker, 10)
    broker.refuse_produce = lambda record: DeliveryFailed("never")
    with FakeWorker(broker) as worker:
        assert worker.pipeline.wait(10)
        assert "without progress" in str(worker.pipeline.error)
        assert not any(worker.committed.values())


def test_a_poison_record_is_rejected_alone() -> None:
    broker = make_broker()
    feed(broker, 100)
    broker.append(INPUT, 0, b"p", b'{"review_id":"p","text":"poison"}')
    with FakeWorker(broker) as worker:
        wait_until(lambda: outcomes(broker) == 101, "101 outcomes")
        (letter,) = visible(broker, DEAD_LETTERS)
        assert unwrap(letter.headers)[1].reason == "model_failure"
        wait_until(lambda: sum(worker.committed.values()) == 101, "the last commit")


def test_a_broken_device_ends_the_worker_and_rejects_nobody() -> None:
    broker = make_broker()
    feed(broker, 100)
    engine = FakeEngine()
    engine.healthy = False
    with FakeWorker(broker, [engine]) as worker:
        assert worker.pipeline.wait(10)
        assert outcomes(broker) == 0
        assert not any(worker.committed.values())


def test_the_breaker_stops_at_the_first_unhandled_record_and_drops_none() -> None:
    broker = make_broker()
    feed(broker, 1000, bad=lambda number: number >= 200)
    with FakeWorker(broker) as worker:
        assert worker.pipeline.wait(10)
        assert worker.pipeline.tripped and worker.pipeline.error is None
        written = sources(visible(broker, OUTPUT)) + dead_sources(broker)
        assert len(written) == len(set(written)) == sum(worker.committed.values()) < 400
        for partition in range(4):
            handled = sorted(offset for number, offset in written if number == partition)
            assert handled == list(range(worker.committed[TopicPartition(INPUT, partition)]))


PLACES = [
    "_decoder.decode",
    "_tokenizer.tokenize",
    "_stages.0.infer",
    "_delivery.send",
    "_delivery.settle",
    "_intake.poll",
    "_intake.commit",
    "_accounting.look",
]


@pytest.mark.parametrize("place", PLACES)
def test_an_exception_in_any_stage_ends_the_worker(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broker = make_broker()
    worker = FakeWorker(broker)
    target: Any = worker.pipeline
    *path, method = place.split(".")
    for name in path:
        target = target[int(name)] if name.isdigit() else getattr(target, name)

    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError(place)

    with worker:
        monkeypatch.setattr(target, method, broken)
        feed(broker, 20)
        assert worker.pipeline.wait(5)
        assert isinstance(worker.pipeline.error, ZeroDivisionError)
        assert worker.health.fault is not None and not worker.health.ready
