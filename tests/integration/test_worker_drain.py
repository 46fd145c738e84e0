"""How a worker stops when told to: with everything it began out and committed, or loudly and with nothing more."""

from __future__ import annotations

import signal
from itertools import cycle
from pathlib import Path

import pytest

from tests.fakes.faulty import command
from tests.fakes.stream import StartWorker, Stream, committed, event, places, send, unacknowledged, written
from tests.fakes.worker import wait_until
from worker.tools.process import WorkerProcess

RECORDS = 6000
DELIVERIES = ["at_least_once", "exactly_once"]


def outcomes(stream: Stream) -> list[tuple[int, int]]:
    return places(written(stream, stream["kafka.output_topic"]) + written(stream, stream["kafka.dead_letter_topic"]))


@pytest.mark.parametrize("client, delivery", [("librdkafka", "at_least_once"), ("kafka-python", "exactly_once")])
def test_a_full_pipeline_drains_and_a_successor_repeats_nothing(
    delivery: str, client: str, worker: StartWorker, stream: Stream, texts: list[str]
) -> None:
    bad = (b"bad", b"not json", ())
    send(stream, (bad if number % 23 == 0 else event(number, texts[number]) for number in range(RECORDS)))
    settings = {**stream, "delivery": delivery, "kafka.client": client, "breaker.ratio": 1.0}
    with worker({**settings, "engine.device": "simulated:40000", "engine.token_budget": 2000}) as first:
        wait_until(lambda: first.metric("review_worker_paused_seconds_total") > 0, f"the bound: {first.log}", 40)
        wait_until(lambda: first.metric("review_worker_committed_offset") > 300, f"commits: {first.log}", 40)
        wait_until(lambda: first.metric("review_worker_in_flight_records") > 500, "a full pipeline", 10)
        first.signal()
        assert first.wait(25) == 0, first.log
    done = outcomes(stream)
    assert 300 < len(done) < RECORDS
    for partition, end in committed(stream).items():
        assert sorted(offset for number, offset in done if number == partition) == list(range(end))
    with worker({**settings, "engine.device": "simulated"}) as second:
        wait_until(lambda: sum(committed(stream).values()) == RECORDS, f"the rest: {second.log}", 60)
        second.signal()
        assert second.wait(25) == 0, second.log
    assert sorted(outcomes(stream)) == [(number, offset) for number in range(4) for offset in range(RECORDS // 4)]


def stuck(stream: Stream, checkpoint: Path, texts: list[str], folder: Path, **settings: object) -> WorkerProcess:
    """A worker whose device does not come back, with work behind it."""
    send(stream, map(event, range(4000), cycle(texts)))
    stand_in, trigger = command(folder, "hang", "infer")
    flags = {**stream, "engine.device": "simulated:20000", "engine.token_budget": 500, **settings}
    process = WorkerProcess(checkpoint, folder / "log", flags, stand_in)
    wait_until(lambda: process.metric("review_worker_committed_offset") > 100, f"commits: {process.log}", 40)
    trigger.touch()
    wait_until(Path(f"{trigger}.reached").exists, "the device", 10)
    return process


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_past_the_deadline_of_a_drain_the_rest_stays_uncommitted(
    delivery: str, stream: Stream, checkpoint: Path, texts: list[str], tmp_path: Path
) -> None:
    with stuck(stream, checkpoint, texts, tmp_path, drain_timeout=1.0, delivery=delivery) as process:
        process.signal()
        wait_until(lambda: process.get("/readyz")[0] != 200, "not ready", 5)
        assert process.wait(10) == 1, process.log
        assert "not drained within 1 s" in process.log and "most recent call first" in process.log
    assert not unacknowledged(stream)


def test_a_second_signal_stops_at_once(stream: Stream, checkpoint: Path, texts: list[str], tmp_path: Path) -> None:
    with stuck(stream, checkpoint, texts, tmp_path) as process:
        process.signal(signal.SIGINT)
        wait_until(lambda: "draining" in process.log, "the drain", 5)
        process.signal()
        assert process.wait(2) == 1, process.log
    assert not unacknowledged(stream)


def test_a_signal_before_anything_was_read_ends_with_exit_code_0(worker: StartWorker, stream: Stream) -> None:
    with worker(stream) as process:  # it loads the model for seconds
        wait_until(lambda: process.get("/livez")[0] == 200, "alive", 30)
        process.signal()
        assert process.wait(10) == 0, process.log
    assert committed(stream) == {}
