"""A record that the model cannot take, and a device that gives wrong answers, told apart by the whole worker."""

from __future__ import annotations

from pathlib import Path

from schemas.dead_letter import unwrap
from tests.fakes.faulty import command
from tests.fakes.stream import Stream, committed, event, places, send, unacknowledged, written
from tests.fakes.worker import wait_until
from worker.tools.process import WorkerProcess

SETTINGS = {"engine.device": "cpu", "engine.dtype": "float32", "engine.token_budget": 4096}


def test_poison_goes_to_the_dead_letters_alone_and_costs_few_forwards(
    stream: Stream, checkpoint: Path, texts: list[str], tmp_path: Path
) -> None:
    poison = {37, 38, 400}  # two of them neighbours in time, none in a partition
    longer = [text for text in texts if len(text.split()) > 3]
    send(stream, (event(number, "very good" if number in poison else longer[number]) for number in range(800)))
    stand_in, trigger = command(tmp_path, "poison", "engine")
    trigger.touch()
    settings = {**SETTINGS, **stream, "delivery": "exactly_once"}
    with WorkerProcess(checkpoint, tmp_path / "log", settings, stand_in) as process:
        wait_until(lambda: sum(committed(stream).values()) == 800, f"all: {process.log}", 60)
        # A batch holds less than 2^9 records of 8 tokens or more: halving it down to one takes 9 splits.
        assert 3 <= process.metric("review_worker_bisections_total") <= 9 * len(poison)
        process.signal()
        assert process.wait() == 0
    letters = written(stream, stream["kafka.dead_letter_topic"])
    assert sorted(places(letters)) == sorted((number % 4, number // 4) for number in poison)
    for letter in letters:
        info = unwrap(letter.headers)[1]
        assert (info.reason, info.stage, info.error) == ("model_failure", "infer", "RuntimeError")
    results = written(stream, stream["kafka.output_topic"])
    assert len(results) == 800 - len(poison) and not unacknowledged(stream)


def test_a_device_that_gives_wrong_answers_ends_the_worker_and_rejects_nobody(
    stream: Stream, checkpoint: Path, texts: list[str], tmp_path: Path
) -> None:
    send(stream, map(event, range(20_000), texts * 3))
    stand_in, trigger = command(tmp_path, "wrong_answers", "engine")
    with WorkerProcess(checkpoint, tmp_path / "log", {**SETTINGS, **stream}, stand_in) as process:
        wait_until(lambda: process.metric("review_worker_committed_offset") > 100, f"commits: {process.log}", 60)
        trigger.touch()
        assert process.wait(20) == 1, process.log
    assert "DeviceFault" in process.log and "most recent call first" in process.log
    assert written(stream, stream["kafka.dead_letter_topic"]) == []
    assert not unacknowledged(stream)
