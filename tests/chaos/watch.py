"""Looks at a running worker ten times a second: its memory, its liveness, what it gets done. Knows no Kafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from worker.tools.process import WorkerProcess

EVERY = 0.1  # seconds
FULL = 0.9  # of the rate before
SUSTAINED = 5  # seconds, on the mean of which the rate is full
OUTCOMES = ("review_worker_labelled_records_total", "review_worker_rejected_records_total")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `at` is monotonic, `memory` resident megabytes, the rest counts since the process began."""

    at: float
    memory: float
    live: bool
    done: float
    tokens: float
    rebalances: float
    rewinds: float
    in_flight: float


class Watch:
    """A thread; `worker` says which process, once ready, is looked at; None: none. To be closed."""

    def __init__(self, worker: Callable[[], WorkerProcess | None]) -> None:
        self._worker = worker
        self.samples: list[Sample] = []
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    @property
    def last(self) -> Sample:
        return self.samples[-1]

    def mark(self) -> int:
        """Where the samples from now on begin; the one taken last is theirs too."""
        return len(self.samples) - 1

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        try:
            while not self._stop.wait(EVERY):
                if (worker := self._worker()) is None or not worker.running:
                    continue
                if (found := look(worker)) is not None:
                    self.samples.append(found)
                elif worker.running:  # and says nothing
                    self.samples.append(replace(self.last, at=time.monotonic(), live=False))
        except BaseException as error:
            self.error = error


def look(worker: WorkerProcess) -> Sample | None:
    """None where it does not answer within five seconds."""
    live, metrics = worker.get("/livez")[0] == 200, worker.get("/metrics")[1]
    try:
        status = Path(f"/proc/{worker.pid}/status").read_text()
    except OSError:
        return None
    resident = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")]
    if not resident or not metrics:
        return None
    counts = [line.rsplit(" ", 1) for line in metrics.splitlines() if line.startswith("review_worker_")]

    def total(*names: str) -> float:
        return sum(float(value) for series, value in counts if series.startswith(names))

    return Sample(
        at=time.monotonic(),
        memory=int(resident[0]) / 1024,
        live=live,
        done=total(*OUTCOMES),
        tokens=total("review_worker_classified_tokens_total"),
        rebalances=total("review_worker_rebalances_total"),
        rewinds=total("review_worker_rewinds_total"),
        in_flight=total("review_worker_in_flight_records"),
    )


def always_live(samples: Sequence[Sample]) -> bool:
    return all(sample.live for sample in samples)


def rate(samples: Sequence[Sample]) -> float:
    """Records a second from the first to the last."""
    return (samples[-1].done - samples[0].done) / (samples[-1].at - samples[0].at)


def per_second(samples: Sequence[Sample], count: int = 10) -> list[int]:
    """Records done in each of the seconds from the first sample on."""
    times, done = np.array([(sample.at, sample.done) for sample in samples]).T
    return [round(n) for n in np.diff(np.interp(times[0] + np.arange(count + 1), times, done))]


def seconds_to_full_rate(before: Sequence[Sample], after: Sequence[Sample]) -> float | None:
    """From the first sample `after` until the device is as busy as `before`; None where it does not come to that.

    By tokens, not by results: those that were held up all come at once, and would pass for a rate.
    """
    full = (before[-1].tokens - before[0].tokens) / (before[-1].at - before[0].at)
    times, tokens = np.array([(sample.at, sample.tokens) for sample in after]).T
    for start in times[times <= times[-1] - SUSTAINED]:
        first, last = np.interp((start, start + SUSTAINED), times, tokens)
        if last - first >= FULL * full * SUSTAINED:
            return float(start - times[0])
    return None
