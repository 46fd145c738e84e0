"""One group, two clients: members of either kind come and go under load, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fakes.stream import Stream, committed, connection, event, places, written
from tests.fakes.worker import wait_until
from worker.tools.process import WorkerProcess
from worker.transport.writer import TopicWriter


class Load:
    """Sends reviews for as long as something is waited for."""

    def __init__(self, stream: Stream, texts: list[str]) -> None:
        self._writer = TopicWriter(connection(stream))
        self._topic = stream["kafka.input_topic"]
        self._texts = texts
        self.sent = 0

    def until(self, condition: Callable[[], bool], what: str, deadline: float = 60.0) -> None:
        end = time.monotonic() + deadline
        while not condition():
            assert time.monotonic() < end, f"{what} did not happen within {deadline} s"
            for _ in range(40):
                key, value, own = event(self.sent, self._texts[self.sent % len(self._texts)])
                self._writer.send(self._topic, key, value, own, partition=self.sent % 4)
                self.sent += 1
            assert self._writer.flush(30)

    def close(self) -> None:
        self._writer.close()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_members_of_both_clients_share_a_group(
    delivery: str, checkpoint: Path, stream: Stream, texts: list[str], tmp_path: Path
) -> None:
    brisk = {"kafka.session_timeout": 6.0, "kafka.heartbeat_interval": 0.5}  # members hear sooner of each other
    settings = {**stream, **brisk, "delivery": delivery, "engine.device": "simulated"}
    load = Load(stream, texts)

    def owned(worker: WorkerProcess) -> float:
        return worker.metric("review_worker_owned_partitions")

    def labels(*workers: WorkerProcess) -> None:
        """Each shares the partitions and goes on labelling."""
        share = 4 / len(workers)
        load.until(lambda: all(owned(worker) == share for worker in workers), f"{share:g} partitions each")
        for worker in workers:
            before = worker.metric("review_worker_labelled_records_total")
            load.until(lambda: worker.metric("review_worker_labelled_records_total") > before, "more labels")  # noqa: B023

    def leave(worker: WorkerProcess) -> None:
        worker.signal()
        load.until(lambda: not worker.running, "the end")
        assert worker.wait() == 0, worker.log

    with ExitStack() as stack:
        stack.callback(load.close)

        def join(name: str, client: str) -> WorkerProcess:
            log = tmp_path / f"{name}.log"
            return stack.enter_context(WorkerProcess(checkpoint, log, {**settings, "kafka.client": client}))

        labels(first := join("first", "kafka-python"))
        labels(first, second := join("second", "librdkafka"))
        leave(first)
        labels(second)
        labels(second, third := join("third", "kafka-python"))
        leave(second)
        labels(third)
        wait_until(lambda: sum(committed(stream).values()) == load.sent, third.log, 60)
        third.signal()
        assert third.wait() == 0, third.log
    found = places(written(stream, stream["kafka.output_topic"]))
    assert set(found) == {(number % 4, number // 4) for number in range(load.sent)}
    if delivery == "exactly_once":
        assert len(found) == load.sent
