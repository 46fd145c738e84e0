"""The map: how one event travels, and every thread and queue there is.

    consume --> decode --> tokenize --> batch --> infer --> publish --> commit
                   \\__________________________________\\__> reject (dead letter) --> commit

    thread    runs                             hands on through
    consume   poll, pause, commit (Intake)     _read: records as polled
    prepare   decode, tokenize                 _ready: tokens waiting until a device asks
    infer-N   one batch at a time, per device  _outbox: batches; and, from the client, what the broker said
    publish   send, settle (Delivery)          the broker; acknowledged records leave here
    observe   lag, outages                     nothing: it looks at the others

Rejected records and tombstones pass through the same queues, so that whatever is written of a partition is in order.
Knows no Kafka client, no model, and no metric's wording.
"""

from __future__ import annotations

import faulthandler
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from worker.accounting import Accounting
from worker.batching import TokenQueue
from worker.dead_letters import DeadLetterWriter
from worker.decode import Decoder
from worker.delivery import Delivery
from worker.health import Health
from worker.holdings import Holdings
from worker.infer import InferStage
from worker.intake import Intake
from worker.membership import Membership
from worker.publish import ResultWriter
from worker.settings import Settings
from worker.tokenize import TokenizeStage
from worker.transport.interface import Transport, TransportConfigurationError
from worker.work import Work

log = logging.getLogger(__name__)

OBSERVE_SECONDS = 0.5
LAG_SECONDS = 5.0
PREPARE_RECORDS = 256  # small enough for the device to start early, large enough for the tokenizer's threads


class Stalled(Exception):
    """A stage holds work and makes no progress, or a broker has been away for too long."""


class Pipeline:
    """One worker's data path."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        decoder: Decoder,
        tokenizer: TokenizeStage,
        stages: Sequence[InferStage],
        results: ResultWriter,
        dead_letters: DeadLetterWriter,
        accounting: Accounting,
        health: Health,
        tokens_per_second: float,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._stages = stages
        self._accounting = accounting
        self._health = health
        self._holdings = Holdings()
        self._changed = threading.Condition(self._holdings.lock)
        self._read: queue.SimpleQueue[list[Work]] = queue.SimpleQueue()
        self._ready: TokenQueue[Work] = TokenQueue()  # guarded by _changed
        self._batches = 0
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._rewind: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._intake = Intake(settings, transport, self._holdings, accounting, tokens_per_second)
        self._delivery = Delivery(
            settings, transport, self._holdings, results, dead_letters, accounting, health, self._rewind.put, self._trip
        )
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.tripped = False
        self.error: BaseException | None = None

    # Life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Joins the group and sets every thread going."""
        membership = Membership(self._holdings, self._accounting, self._health, self._outbox.put)
        self._transport.subscribe(self._settings.kafka.input_topics, membership)
        self._run("consume", self._consume)
        self._run("prepare", self._prepare)
        for number, stage in enumerate(self._stages):
            self._run(f"infer-{number}", self._infer, f"infer-{number}", stage)
        self._run("publish", self._publish)
        self._run("observe", self._observe)

    def drain(self) -> None:
        """Begins nothing new; what a device has begun is finished and committed, then the pipeline ends."""
        self._health.draining = True

    def wait(self, timeout: float) -> bool:
        """True once it has ended: drained, or `error` says why not."""
        return self._ended.wait(timeout)

    def fail(self, error: BaseException) -> None:
        """Ends it at once; nothing more is committed."""
        if self.error is None:
            self.error = error
            if not isinstance(error, TransportConfigurationError):  # which explains itself
                faulthandler.dump_traceback(all_threads=True)  # while each thread still is where it was
            self._health.fault = f"{type(error).__name__}: {error}"
        self._ended.set()
        if self._changed.acquire(timeout=1.0):  # so that leaving the group waits for nothing
            try:
                self._holdings.lost(self._holdings.partitions)
            finally:
                self._changed.release()

    def join(self, timeout: float) -> None:
        """Waits for the threads of a pipeline that has ended."""
        deadline = time.monotonic() + timeout
        self._outbox.put(None)
        if self._changed.acquire(timeout=timeout):  # a thread may hang with it
            self._changed.notify_all()
            self._changed.release()
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self, name: str, loop: Callable[..., None], *arguments: object) -> None:
        def guarded() -> None:
            try:
                loop(*arguments)
            except BaseException as error:  # a thread that dies must take the worker with it, whatever killed it
                log.exception("%s failed", name)
                self.fail(error)

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    # consume ----------------------------------------------------------------------------------------------------

    def _consume(self) -> None:
        while not self._ended.is_set():
            self._health.busy("consume", time.monotonic())
            if not self._rewind.empty():
                self._read_again()
            self._intake.balance(draining=self._health.draining)
            if works := self._intake.poll():
                self._read.put(works)
            self._health.joined = self._health.joined or self._transport.joined()
            self._intake.commit()
            if self._health.draining and self._intake.drained():
                self._ended.set()

    def _read_again(self) -> None:
        self._health.wait("consume", "broker", time.monotonic())
        self._intake.read_again(self._rewind.get())
        self._health.idle("broker")
        while not self._rewind.empty():  # said by others of the same batch
            self._rewind.get()
        self._delivery.resume()

    # prepare ----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        while not self._ended.is_set():
            try:
                works = self._read.get(timeout=OBSERVE_SECONDS)
            except queue.Empty:
                continue
            for start in range(0, len(works), PREPARE_RECORDS):
                self._health.busy("prepare", time.monotonic())
                self._prepare_some(works[start : start + PREPARE_RECORDS])
            self._health.idle("prepare")

    def _prepare_some(self, works: Sequence[Work]) -> None:
        works = self._wanted(works)
        cpu = time.thread_time()
        self._decoder.decode(works)
        decoded_at, decode_cpu = time.monotonic(), time.thread_time() - cpu
        self._tokenizer.tokenize(works)
        tokenized_at = time.monotonic()
        self._accounting.prepared_cpu(decode_cpu, time.thread_time() - cpu - decode_cpu)
        for work in works:
            work.decoded_at, work.tokenized_at = decoded_at, tokenized_at
        self._accounting.prepared(works)
        with self._changed:
            self._ready.put(works)
            self._changed.notify()

    def _wanted(self, works: Sequence[Work]) -> Sequence[Work]:
        with self._changed:
            wanted = [work for work in works if not self._health.draining and self._holdings.wants(work)]
            if len(wanted) < len(works):
                self._holdings.let_go(set(works).difference(wanted))
        return wanted

    def _trip(self) -> None:
        self.tripped = True
        self.drain()

    # infer ------------------------------------------------------------------------------------------------------

    def _infer(self, name: str, stage: InferStage) -> None:
        idle_since = time.monotonic()
        while True:
            with self._changed:
                while not self._ready and not self._ended.is_set():
                    self._changed.wait()
                if self._ended.is_set():
                    return
                if self._health.draining:
                    self._holdings.let_go(self._ready.discard(lambda work: True))
                batch = [work for work in self._ready.take(stage.token_budget) if self._holdings.hand_over(work)]
                turn = self._batches
                self._batches += bool(batch)
                if self._ready:  # enough came at once for another device
                    self._changed.notify()
            if not batch:
                continue
            taken_at = time.monotonic()
            self._health.busy(name, taken_at)
            stage.infer(batch)
            inferred_at = time.monotonic()
            self._health.idle(name)
            for work in batch:
                work.taken_at, work.inferred_at = taken_at, inferred_at
            self._accounting.inferred(batch, idle_since, self._ready.tokens)
            self._outbox.put((turn, batch))
            idle_since = inferred_at

    # publish ----------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        out_of_turn: dict[int, list[Work]] = {}  # several devices may finish in another order than they began
        turn = 0
        while not self._ended.is_set():
            deliveries = []
            for item in self._outbox_items():
                if isinstance(item[0], int):
                    out_of_turn[item[0]] = item[1]
                else:
                    deliveries.append(item)
            self._health.busy("publish", time.monotonic())
            self._delivery.settle(deliveries)
            while (batch := out_of_turn.pop(turn, None)) is not None:
                self._delivery.send(batch)
                turn += 1
            if self._settings.delivery == "exactly_once":
                self._delivery.commit_transaction()
            self._health.idle("publish")

    def _outbox_items(self) -> Iterable[Any]:
        """What has come, after a short wait for the first; None, which only `join` puts there, is left out."""
        try:
            item = self._outbox.get(timeout=min(OBSERVE_SECONDS, self._settings.commit_interval))
            while True:
                if item is not None:
                    yield item
                item = self._outbox.get_nowait()
        except queue.Empty:
            return

    # observe ----------------------------------------------------------------------------------------------------

    def _observe(self) -> None:
        lag_at = 0.0
        while not self._ended.wait(OBSERVE_SECONDS):
            now = time.monotonic()
            self._health.busy("observe", now)
            blocked = self._accounting.look(
                self._holdings, self._ready.tokens, self._health, self._intake.commits_fail_since
            )
            if blocked > self._settings.kafka.outage_deadline:
                raise Stalled(f"blocked by the broker for {blocked:.0f} s, over kafka.outage_deadline")
            if now >= lag_at:
                if ends := self._transport.end_offsets(timeout=LAG_SECONDS):
                    self._accounting.answered()
                    with self._changed:
                        frontiers = self._holdings.frontiers()
                    self._accounting.lag(ends, frontiers)
                lag_at = now + LAG_SECONDS
