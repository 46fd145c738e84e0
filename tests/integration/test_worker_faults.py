"""Whatever fails or hangs, wherever: the process ends, says why, and has committed nothing unacknowledged."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.faulty import command
from tests.fakes.stream import Stream, event, make_topic, send, unacknowledged
from tests.fakes.worker import wait_until
from worker.tools.process import WorkerProcess

SETTINGS = {
    "engine.device": "simulated:10000",  # so that the stream outlasts the test
    "engine.token_budget": 500,
    "stall_timeout": 1.5,
    "kafka.max_poll_interval": 15.0,
}
STREAMS = cycle(
    {"kafka.client": client, "delivery": delivery}
    for delivery in ("at_least_once", "exactly_once")
    for client in ("kafka-python", "librdkafka")
)
LIBRDKAFKA = {"kafka.client": "librdkafka", "delivery": "at_least_once"}  # runs callbacks in a thread of ours
FAILING = ["decode", "tokenize", "infer", "write", "send", "settle", "poll", "commit", "observe", "delivered"]
FAILING_IN = {place: next(STREAMS) for place in FAILING} | {
    "commit": LIBRDKAFKA,  # which commits nothing where delivery is exactly once
    "commit_transaction": {"kafka.client": "kafka-python", "delivery": "exactly_once"},
    "delivered": LIBRDKAFKA,
}
HANGING = {"decode": 1.5, "infer": 1.5, "write": 1.5, "settle": 1.5, "hand_over": 1.5, "poll": 4.5, "observe": 11.5}
HANGING_IN = {place: next(STREAMS) for place in HANGING}


@dataclass(frozen=True)
class Ending:
    """How a worker ended. Seconds count from the fault; `unacknowledged` are committed without a result."""

    code: int
    seconds: float
    seconds_alive: float
    log: str
    unacknowledged: set[tuple[int, int]]


def end(folder: Path, checkpoint: Path, stream: Stream, fault: str, place: str) -> Ending:
    """Lets a worker run, then brings the fault about."""
    stand_in, trigger = command(folder, fault, place)
    with WorkerProcess(checkpoint, folder / "log", stream, stand_in) as process:
        process.wait_ready()
        wait_until(lambda: process.metric("review_worker_committed_offset") > 100, f"commits: {process.log}", 40)
        assert process.get("/livez")[0] == 200
        trigger.touch()
        begin, alive = time.monotonic(), 0.0
        while process.running and time.monotonic() < begin + 40:
            if not alive and process.get("/livez")[0] == 503:
                alive = time.monotonic() - begin
            time.sleep(0.02)
        seconds, code = time.monotonic() - begin, process.wait(0.1)
    return Ending(code, seconds, alive, process.log, unacknowledged(stream))


@pytest.fixture(scope="module")
def endings(
    bootstrap: str, checkpoint: Path, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[tuple[str, str], Future[Ending]]]:
    """Of all faults, a few workers at a time; all read one topic, each in a group of its own."""
    source = make_topic(bootstrap, "reviews")
    send({"kafka.bootstrap_servers": bootstrap, "kafka.input_topic": source}, map(event, range(20_000), cycle(texts)))

    def ending(fault: str, place: str, settings: dict[str, Any]) -> Ending:
        stream = {
            **SETTINGS,
            **settings,
            "kafka.bootstrap_servers": bootstrap,
            "kafka.input_topic": source,
            "kafka.output_topic": (output := make_topic(bootstrap, "labelled")),
            "kafka.dead_letter_topic": make_topic(bootstrap, "dead-letters"),
            "kafka.group_id": f"group-{output}",
        }
        return end(tmp_path_factory.mktemp(place), checkpoint, stream, fault, place)

    cases = {("hang", place): HANGING_IN[place] for place in reversed(HANGING)}
    cases |= {("hang_with_interpreter", "decode"): LIBRDKAFKA}
    cases |= {("exception", place): settings for place, settings in FAILING_IN.items()}
    with ThreadPoolExecutor(4) as pool:
        yield {case: pool.submit(ending, *case, settings) for case, settings in cases.items()}
        pool.shutdown(cancel_futures=True)


def assert_loud_and_clean(ending: Ending) -> None:
    assert ending.code == 1, ending.log
    for loop in ("_consume", "_prepare", "_infer", "_publish", "_observe", "_watch"):  # no stack is missing
        assert f" in {loop}\n" in ending.log, ending.log
    assert not ending.unacknowledged


@pytest.mark.parametrize("place", FAILING_IN)
def test_an_exception_ends_the_worker_within_seconds(
    place: str, endings: dict[tuple[str, str], Future[Ending]]
) -> None:
    ending = endings["exception", place].result()
    assert_loud_and_clean(ending)
    assert ending.seconds < 5
    assert "fault: ZeroDivisionError: injected" in ending.log


@pytest.mark.parametrize("place", HANGING)
def test_a_stage_that_hangs_is_not_alive_past_its_limit_and_ends_the_worker(
    place: str, endings: dict[tuple[str, str], Future[Ending]]
) -> None:
    ending, limit = endings["hang", place].result(), HANGING[place]
    assert_loud_and_clean(ending)
    assert "has made no progress" in ending.log and "in hang" in ending.log
    assert limit - 0.5 < ending.seconds_alive < limit + 3
    assert ending.seconds < limit + 6


def test_a_stage_that_hangs_with_the_interpreter_s_lock_ends_the_worker(
    endings: dict[tuple[str, str], Future[Ending]],
) -> None:
    ending = endings["hang_with_interpreter", "decode"].result()
    assert_loud_and_clean(ending)
    assert "in hang_with_interpreter" in ending.log
