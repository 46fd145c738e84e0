"""A worker under measurement: draining a backlog, under an open-loop load, and idle but for one review at a time."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.configuration import load_settings
from worker.settings import KafkaSettings
from worker.tools.demo_stream import Ledger, Receivers, Review, Sender
from worker.tools.demo_view import percentiles
from worker.tools.process import WorkerProcess
from worker.tools.topics import create
from worker.transport.admin import Admin

PARTS = ("consume", "decode", "tokenize", "infer", "publish", "client", "other", "native")
DEADLINE = 900.0


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the worker stands at one moment; CPU and busy times in seconds since it started."""

    time: float
    labelled: float
    busy: float
    starved: float
    cpu: dict[str, float]
    others: float
    """CPU seconds that broker and bench have used."""


class BenchWorker:
    """Starts workers with these settings (`--name=value`), each on topics of its own. `broker_pids`: of a Kafka on this
    machine."""

    def __init__(self, flags: Sequence[str], checkpoint: str, broker_pids: Sequence[int]) -> None:
        self._flags = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        self._checkpoint = checkpoint
        self._broker_pids = broker_pids

    def drain(self, reviews: Sequence[Review]) -> tuple[Mark, Mark]:
        """The marks at a tenth and at nine tenths of a backlog."""
        kafka, settings = self._stream()
        sender = Sender(kafka, Ledger({}))
        sender.burst(reviews)
        sender.close()
        with self._worker(settings) as worker:
            first = self._mark(worker, len(reviews) // 10)
            last = self._mark(worker, len(reviews) * 9 // 10)
            worker.signal()
            worker.wait(60)
        return first, last

    def open_loop(self, reviews: Sequence[Review], rate: float, **settings: Any) -> dict[str, float]:
        """Percentiles in milliseconds from the scheduled sending to the result consumed, at a fixed rate."""
        kafka, settings = self._stream(**settings)
        ledger = Ledger({review.review_id: review for review in reviews})
        with self._worker(settings) as worker:
            receivers, sender = Receivers(kafka, ledger), Sender(kafka, ledger)
            sender.steady(reviews, rate, threading.Event())
            sender.close()
            end = time.monotonic() + DEADLINE
            while ledger.done < len(reviews) and time.monotonic() < end and worker.running:
                time.sleep(0.05)
            receivers.close()
        return percentiles(ledger.latencies)

    def _stream(self, **settings: Any) -> tuple[KafkaSettings, dict[str, Any]]:
        """A fresh set of topics, and the settings of a worker on them."""
        tag = f"bench-{time.time_ns()}"
        names = {
            "kafka.input_topic": tag, "kafka.output_topic": f"{tag}.out", "kafka.dead_letter_topic": f"{tag}.dead",
            "kafka.group_id": tag, **self._flags, **settings,
        }  # fmt: skip
        kafka = load_settings(None, [f"--{name}={value}" for name, value in names.items()]).kafka
        with Admin(kafka) as admin:
            create(admin, kafka)
        return kafka, names

    @contextmanager
    def _worker(self, settings: dict[str, Any]) -> Iterator[WorkerProcess]:
        with (
            tempfile.TemporaryDirectory() as folder,
            WorkerProcess(self._checkpoint, Path(folder) / "log", settings) as worker,
        ):
            worker.wait_ready(300)
            yield worker

    def _mark(self, worker: WorkerProcess, labelled: int) -> Mark:
        """As soon as so many results are acknowledged."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end and worker.running:
            _, body = worker.get("/metrics")
            values = [line.rsplit(" ", 1) for line in body.splitlines() if line.startswith("review_worker_")]

            def total(name: str, values: list[list[str]] = values) -> float:
                return sum(float(value) for series, value in values if series.startswith(name))

            done = total("review_worker_labelled_records_total")
            if done >= labelled:
                return Mark(
                    time.monotonic(),
                    done,
                    total("review_worker_device_busy_seconds_total"),
                    total("review_worker_device_idle_with_work_seconds_total"),
                    {part: total(f'review_worker_cpu_seconds_total{{part="{part}"}}') for part in PARTS},
                    sum(map(cpu_seconds, self._broker_pids)) + time.process_time(),
                )
            time.sleep(0.5)  # each look takes time from the worker; when exactly it is does not matter
        raise TimeoutError(f"{labelled} results did not come:\n{worker.log}")


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used (proc_pid_stat(5)); 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
