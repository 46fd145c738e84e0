"""One worker that is watched, on a Kafka of its own, and a stream to it whose every record is accounted for.

Knows nothing of what is to go wrong: `outages.py` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.chaos.generator import Acknowledged, Generator
from tests.chaos.ledger import Ledger, Reader
from tests.chaos.reviews import expectations, review_texts
from tests.chaos.verdict import Mode
from tests.chaos.watch import Watch
from tests.chaos.world import DEAD_LETTERS, GROUP, INPUT, OUTPUT, OUTPUT_PARTITIONS, PARTITIONS, World
from worker.tools.process import WorkerProcess

MOST_RECORDS = 500_000
PATIENCE = 240.0  # seconds for anything to happen
SAY_EVERY = 10.0  # seconds between two lines of progress


class Stage:
    """A context manager; the worker is started by `start`. `settings` are its own, by their dotted names."""

    def __init__(
        self,
        mode: Mode,
        folder: Path,
        checkpoint: Path,
        say: Callable[[str], None],
        nodes: int = 1,
        **settings: Any,
    ) -> None:
        self.mode, self.checkpoint, self.say, self._nodes = mode, checkpoint, say, nodes
        self._folder, self._settings = folder, settings
        self._started = 0
        self.worker: WorkerProcess | None = None
        self.errors: list[Callable[[], BaseException | None]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.world = stack.enter_context(World(self._nodes, properties={"auto.create.topics.enable": "true"}))
            self.world.create_topics()
            self.watch = Watch(lambda: self.worker)
            stack.callback(self.watch.close)
            self.errors.append(lambda: self.watch.error)
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stack.close()

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "kafka.bootstrap_servers": self.world.bootstrap,
            "kafka.client": self.mode.client,
            "kafka.group_id": GROUP,
            "delivery": self.mode.delivery,
            **self._settings,
        }

    def start(self) -> WorkerProcess:
        """A worker, ready and seen by the watch; in the place of one that has ended."""
        self._started += 1
        log = self._folder / f"{self.mode.client}-{self.mode.delivery}-{self._started}.log"
        worker = self.stack.enter_context(WorkerProcess(self.checkpoint, log, self.settings))
        worker.wait_ready()
        self.worker, seen = worker, len(self.watch.samples)
        self.until(lambda: len(self.watch.samples) > seen, "the watch to see the worker")
        return worker

    def stop(self) -> None:
        """SIGTERM; it must drain. The next to start may be in another mode."""
        assert self.worker is not None
        self.worker.signal()
        assert (code := self.worker.wait()) == 0, f"the worker drained with exit code {code}"
        self.worker = None

    def until(self, condition: Callable[[], bool], what: str, patience: float = PATIENCE, pause: float = 0.05) -> None:
        """TimeoutError, with the end of the worker's log, where it does not come to that."""
        start = said_at = time.monotonic()
        while not condition():
            now = time.monotonic()
            if now - said_at > SAY_EVERY:
                said_at = now
                self.say(f"{now - start:.0f} s of waiting for {what}: {self.watch.samples[-1:]}")
            for error in filter(None, (found() for found in self.errors)):
                raise error
            if now - start > patience:
                log = self.worker.log[-3000:] if self.worker else ""
                raise TimeoutError(f"waited {patience:g} s for {what}; the worker's log:\n{log}")
            time.sleep(pause)

    def let_pass(self, seconds: float, what: str) -> None:
        """Where the passing of time is itself what is tried."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, what, patience=seconds + 10)

    def progress(self) -> None:
        """Returns once the worker has got something done from now on."""
        done = self.watch.last.done
        self.until(lambda: self.watch.last.done > done, "progress")


class Stream:
    """Numbered reviews into the input as they are asked for, and a ledger of what comes out. A context manager."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._bootstrap = stage, stage.world.bootstrap
        self._texts = review_texts()
        self._expected = expectations(self._texts, stage.checkpoint)
        self._acknowledged = Acknowledged(MOST_RECORDS)
        self._limit: Callable[[], float] = lambda: 0

    def __enter__(self) -> Self:
        self.read()
        self._generator = Generator(
            self._bootstrap,
            INPUT,
            PARTITIONS,
            self._texts,
            self._acknowledged,
            range(MOST_RECORDS),
            lambda: self.sent,
        )
        self._stage.errors += [lambda: self._reader.error, lambda: self._generator.error]
        return self

    def __exit__(self, *exception: object) -> None:
        self._generator.close()
        self._reader.close()

    @property
    def sent(self) -> int:
        """Records that are in the input, or on their way there."""
        return min(MOST_RECORDS, int(self._limit()))

    def feed(self, records: int) -> None:
        """So many more, at once."""
        limit = self.sent + records
        self._limit = lambda: limit

    @contextmanager
    def trickling(self, per_second: float) -> Iterator[None]:
        """Records keep coming in meanwhile."""
        before, start = self.sent, time.monotonic()
        self._limit = lambda: before + per_second * (time.monotonic() - start)
        yield
        self.feed(0)

    def read(self, output_partitions: int = OUTPUT_PARTITIONS) -> None:
        """Begins a ledger, from the beginning of the topics as they are now. `output_partitions`: as the worker found
        them."""
        once = self._stage.mode.exactly_once
        self.ledger = Ledger(
            INPUT,
            self._texts,
            self._expected,
            self._acknowledged,
            exactly_once=once,
            output_partitions=output_partitions,
        )
        self._reader = Reader(self._bootstrap, OUTPUT, DEAD_LETTERS, self.ledger)

    def stop_reading(self) -> None:
        self._reader.close()

    def settle(self) -> None:
        """Waits until everything sent is handled and committed, and the ledger has read what there is."""
        until, world, sent = self._stage.until, self._stage.world, self.sent
        until(lambda: min(self._acknowledged.partitions[:sent], default=0) >= 0, "all records to get to the input")
        until(lambda: not world.uncommitted(), "everything to be committed", pause=0.5)
        until(lambda: not world.open_transactions(), "the transactions to end", pause=0.5)
        end = time.monotonic() + 1.0  # seconds in which the reader must have heard of what was there before
        until(lambda: time.monotonic() > end and self._reader.at_end, "the ledger to read it all")
        self._acknowledged.fill(self._bootstrap, INPUT)
        self.ledger.settle()

    def missing(self) -> set[int]:
        """Numbers of the records sent that the ledger has not seen."""
        return {number for number in self.ledger.lost if number < self.sent}

    def place(self, number: int) -> tuple[int, int]:
        """Partition and offset of a record in the input."""
        return self._acknowledged.partitions[number], self._acknowledged.offsets[number]
