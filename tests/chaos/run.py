"""One chaos run: three workers, a stream, a list of faults, and a verdict.

The process under test is `review-worker run` itself with the simulated model. Faults come at even steps of the stream's
progress, so that there is always work in flight. A worker that ends is started again, as an orchestrator would.
"""

from __future__ import annotations

import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.chaos.faults import Fault
from tests.chaos.generator import Acknowledged, Generator
from tests.chaos.ledger import Ledger, Reader
from tests.chaos.proxy import Proxy
from tests.chaos.reviews import expectations, review_texts
from tests.chaos.verdict import COMMIT_INTERVAL, IN_FLIGHT, Mode, State, Verdict, Workers, judge
from tests.chaos.world import DEAD_LETTERS, GROUP, INPUT, OUTPUT, World
from worker.tools.process import WorkerProcess

WORKERS = 3
PROBLEMS = 10  # after which a run is given up
TOOK_OVER = re.compile(r" ERROR .*another worker with the (instance|transactional) id \S+ took over")
RESERVE = 0.2  # of the records: kept for faults that need more than their share to have work in flight


class Run:
    """Faults call its methods; `execute` does it all."""

    def __init__(
        self,
        mode: Mode,
        world: World,
        checkpoint: Path,
        folder: Path,
        records: int,
        *,
        workers: Workers | None = None,
        backlog: bool = False,
        state: State | None = None,
        seed: int = 0,
        on_progress: Callable[[Run], None] = lambda run: None,
    ) -> None:
        self.mode, self.world, self.records = mode, world, records
        self.state = state or State()
        self._checkpoint, self._folder = checkpoint, folder
        self._like, self._backlog = workers or Workers(), backlog
        self.session_timeout = self._like.session_timeout
        self._random = random.Random(seed)
        self._on_progress = on_progress
        self._workers: dict[int, WorkerProcess] = {}
        self._started = 0
        self._extra = 0
        self._stack = ExitStack()

    @property
    def slots(self) -> range:
        return range(WORKERS)

    @property
    def proxy(self) -> Proxy:
        assert self.world.proxy is not None
        return self.world.proxy

    def execute(self, faults: Sequence[Fault]) -> Verdict:
        """The verdict; raises only where the suite itself, or the broker, is at fault."""
        start, before = time.monotonic(), self.state.seconds
        self._faults = faults
        acknowledged = Acknowledged(self.records)
        if self.world.create_topics():  # an earlier run is resumed
            acknowledged.fill(self.world.bootstrap, INPUT)
        texts = review_texts()
        expected = expectations(texts, self._checkpoint)
        self.ledger = Ledger(INPUT, texts, expected, acknowledged, exactly_once=self.mode.exactly_once)
        with self._stack as stack:
            reader = Reader(self.world.bootstrap, OUTPUT, DEAD_LETTERS, self.ledger)
            stack.callback(reader.close)
            self._reader = reader
            self.generator = Generator(
                self.world.bootstrap,
                INPUT,
                self.world.partitions(INPUT),
                texts,
                acknowledged,
                acknowledged.missing(),
                self._released,
            )
            stack.callback(self.generator.close)
            for slot in self.slots:
                self.start(slot)
            with suppress(NoProgress):
                for slot in self.slots:
                    self.wait_ready(slot)
                while self.state.faults < len(faults):
                    self.until(lambda: self.ledger.outcomes >= self._due(1))
                    faults[self.state.faults](self)
                    self.state.faults += 1
                    self.state.seconds = before + time.monotonic() - start
                    self._on_progress(self)
                self.until(lambda: self.generator.done)
                self.until(lambda: not self.world.uncommitted(), pause=0.5)
            self._finish()
        if acknowledged.missing():
            acknowledged.fill(self.world.bootstrap, INPUT)
        self.ledger.settle()
        self.state.seconds = before + time.monotonic() - start
        return judge(self.mode, self.records, self.state, self.ledger)

    def _due(self, steps: int) -> int:
        """Of all records but the reserve, those up to so many faults from now."""
        return int(self.records * (1 - RESERVE)) * (self.state.faults + steps) // (len(self._faults) + 1)

    def _released(self) -> int:
        """Up to which number records may be sent now: so that there is work left for the next fault, but no more, if
        they are not all to be there from the start."""
        all_of_them = self._backlog or self.state.faults == len(self._faults)
        return self.records if all_of_them else max(self._due(2), self._extra)

    def _finish(self) -> None:
        """Drains every worker, and reads until nothing more can come."""
        for slot in self.slots:
            self.stop(slot)
        if left := self.world.uncommitted():
            self.state.problems.append(f"not committed to the end: {left}")
        with suppress(NoProgress):
            self.until(lambda: not self.world.open_transactions(), pause=0.5)
            end = time.monotonic() + 1.0  # seconds in which the reader must have heard of what was there before
            self.until(lambda: time.monotonic() > end and self._reader.at_end)

    # What faults use --------------------------------------------------------------------------------------------

    def start(self, slot: int) -> WorkerProcess:
        """A new process in this place. The first two are static members of the group, others dynamic ones."""
        settings: dict[str, Any] = {
            "kafka.bootstrap_servers": self.world.workers_bootstrap,
            "kafka.client": self.mode.client,
            "kafka.group_id": GROUP,
            "kafka.session_timeout": self.session_timeout,
            "kafka.heartbeat_interval": self.session_timeout / 6,
            "kafka.startup_timeout": 60,
            "kafka.outage_deadline": 60,
            "delivery": self.mode.delivery,
            "commit_interval": COMMIT_INTERVAL,
            "in_flight.records": IN_FLIGHT,
            "in_flight.seconds": 10,
            "engine.device": f"simulated:{self._like.tokens_per_second}",
            "engine.token_budget": self._like.token_budgets[slot % WORKERS],
        }
        if slot < WORKERS - 1:
            settings["kafka.instance_id"] = f"worker-{slot}"
        self._started += 1
        log = self._folder / f"worker-{slot}-{self._started:04}.log"
        worker = self._workers[slot] = self._stack.enter_context(
            WorkerProcess(self._checkpoint, log, settings, command=self._like.command)
        )
        return worker

    def stop(self, slot: int) -> None:
        """SIGTERM; it must drain."""
        worker = self._workers.pop(slot)
        worker.signal()
        code = worker.wait(40)
        if code != 0 and (code != -signal.SIGTERM or worker.log):  # one that has not begun ends as any process does
            self._note_end(slot, worker, code)

    def replace(self, slot: int) -> None:
        """SIGTERM, and then another in its place."""
        self.stop(slot)
        self.start(slot)
        self.wait_ready(slot)

    def kill(self, slot: int) -> None:
        """SIGKILL, and another in its place at once."""
        worker = self._workers.pop(slot)
        worker.signal(signal.SIGKILL)
        worker.wait(10)
        self.state.kills += 1
        self.state.disturbances += 1
        self.start(slot)

    @contextmanager
    def frozen(self, slot: int) -> Iterator[WorkerProcess]:
        worker = self._workers[slot]
        worker.signal(signal.SIGSTOP)
        try:
            yield worker
        finally:
            worker.signal(signal.SIGCONT)
        self.state.disturbances += 1

    def expect_one_end(self, old: WorkerProcess, slot: int, within: float = 30.0) -> None:
        """Of two workers with one instance id the older ends with exit code 1 and says why. Over librdkafka one that
        wakes after its session joins again before it hears that it was replaced: then the newer may end, or both."""
        new = self._workers.pop(slot)
        may_end = [old] if self.mode.client == "kafka-python" else [old, new]
        end = time.monotonic() + within
        self.until(lambda: any(not worker.running for worker in may_end) or time.monotonic() > end)
        if len(may_end) > 1:
            self.let_pass(self.session_timeout)
        ended = [worker for worker in may_end if not worker.running]
        codes = [worker.wait(1) for worker in ended]
        if not codes or set(codes) != {1} or not all(TOOK_OVER.search(worker.log) for worker in ended):
            logs = "\n".join(worker.log[-500:] for worker in ended or may_end)
            self.state.problems.append(f"two with one instance id, exit codes {codes}: {logs}")
        if left := [worker for worker in (new, old) if worker.running]:
            self._workers[slot] = left[0]
        else:
            self.start(slot)

    def busy_worker(self, *, static: bool = False) -> int:
        """Slot of a worker with records in flight now."""
        slots = [slot for slot in self.slots if not static or slot != WORKERS - 1]
        found: list[int] = []

        def look() -> bool:
            self._random.shuffle(slots)
            found.extend(s for s in slots if self._workers[s].metric("review_worker_in_flight_records") > 0)
            return bool(found)

        self.until_in_flow(look)
        return found[0]

    @property
    def dry(self) -> bool:
        """Whether everything has come out, so that nothing can be in flight any more."""
        return self.ledger.outcomes >= self.records

    def rewinds(self, slot: int) -> float:
        """How often this worker has begun again after a failed delivery or an abort."""
        return self._workers[slot].metric("review_worker_rewinds_total")

    def commits(self, slot: int) -> float:
        return self._workers[slot].metric('review_worker_commits_total{outcome="ok"')

    def ready(self, slot: int) -> bool:
        return self._workers[slot].get("/readyz")[0] == 200

    def wait_ready(self, slot: int) -> None:
        self.until(lambda: self.ready(slot))

    def let_pass(self, seconds: float) -> None:
        """Where the passing of time is itself the fault."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end)

    def until_in_flow(self, condition: Callable[[], bool]) -> None:
        """As `until`, for what happens only while records are in flight: sends some of the reserve where none are."""

        def look() -> bool:
            if self.ledger.outcomes >= self._released():
                self._extra = self.ledger.outcomes + WORKERS * IN_FLIGHT
            return condition()

        self.until(look)

    def until(self, condition: Callable[[], bool], pause: float = 0.05) -> None:
        """Looks after everything until the condition holds; NoProgress where no record comes out for too long."""
        outcomes, moved_at = self.ledger.outcomes, time.monotonic()
        while not condition():
            self._look_after()
            now = time.monotonic()
            if self.ledger.outcomes != outcomes:
                outcomes, moved_at = self.ledger.outcomes, now
            elif now - moved_at > self._like.patience:
                self.state.problems.append(f"no progress for {self._like.patience:g} s, {outcomes} records out")
                raise NoProgress
            time.sleep(pause)

    def _look_after(self) -> None:
        self._on_progress(self)
        self.world.kafka.check()
        for error in (self._reader.error, self.generator.error):
            if error is not None:
                raise error
        for slot, worker in list(self._workers.items()):
            if not worker.running:
                self._note_end(slot, worker, worker.wait(1))
                if len(self.state.problems) > PROBLEMS:
                    raise NoProgress
                self.state.disturbances += 1
                self.start(slot)

    def _note_end(self, slot: int, worker: WorkerProcess, code: int) -> None:
        lines = [line[:300] for line in worker.log.splitlines() if " ERROR " in line or " WARNING " in line]
        self.state.problems.append("\n  ".join([f"worker {slot} ended with exit code {code}:", *lines[-4:]]))


class NoProgress(Exception):
    """There is no point in going on: nothing has come out for too long, or workers keep ending."""
