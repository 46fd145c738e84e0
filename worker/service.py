"""`review-worker run`: puts the parts together, watches for signals and turns how it ended into an exit code."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
import uuid
from types import FrameType
from typing import Any

from schemas.labeled import ModelInfo
from schemas.store import Checkpoint, CheckpointError, fetch
from worker import STARTED, __version__
from worker import metrics as m
from worker.accounting import Accounting
from worker.configuration import ConfigurationError, unknown_variables
from worker.dead_letters import DeadLetterWriter
from worker.decode import Decoder
from worker.engine.choice import make_engines
from worker.faults import DeviceFault, OutOfMemory
from worker.health import Health
from worker.http import HttpServer
from worker.infer import InferStage
from worker.logs import configure_logging
from worker.pipeline import LAG_SECONDS, Pipeline, Stalled
from worker.publish import ResultWriter
from worker.settings import Settings
from worker.sizes import HEADER_ROOM
from worker.tokenize import TokenizeStage
from worker.transport import make_transport
from worker.transport.interface import TopicInfo, Transport, TransportConfigurationError, TransportUnavailable

log = logging.getLogger(__name__)

DRAINED, FAULT, MISCONFIGURED, TRIPPED = 0, 1, 2, 3
CLOSE_SECONDS = 5.0


class Service:
    """One worker process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metrics = m.Metrics()
        self._health = Health(
            limits={
                "prepare": settings.stall_timeout,
                "infer": settings.stall_timeout,
                "publish": settings.stall_timeout,
                "broker": settings.kafka.outage_deadline + settings.stall_timeout,
                "consume": settings.stall_timeout + 0.2 * settings.kafka.max_poll_interval,
                "observe": settings.stall_timeout + 2 * LAG_SECONDS,  # it may wait that long for an answer
            }
        )
        self._info: dict[str, Any] = {"version": __version__}
        self._pipeline: Pipeline | None = None
        self._stopping = False
        self._drain_deadline: float | None = None

    def run(self) -> int:
        """The exit code. Does not return where threads are stuck: then the process ends here."""
        configure_logging(self._settings.log)
        signal.signal(signal.SIGTERM, self._signalled)
        signal.signal(signal.SIGINT, self._signalled)
        for name in unknown_variables():
            log.warning("environment variable %s is no setting", name)
        try:
            transport, pipeline = self._start()
        except (
            ConfigurationError, CheckpointError, OutOfMemory, TransportConfigurationError, TransportUnavailable
        ) as error:  # fmt: skip
            print(f"review-worker: {error}", file=sys.stderr)
            return MISCONFIGURED
        except DeviceFault as error:
            log.error("fault: %s", error)
            return FAULT
        except Stopped:
            return DRAINED
        code = self._watch(pipeline)
        closing = CLOSE_SECONDS if code == DRAINED else 1.0
        faulthandler.dump_traceback_later(closing + 2.0, exit=True)  # with exit code 1, whatever hangs
        transport.close(closing)
        pipeline.join(1.0)
        log.info("ended with exit code %d", code)
        return code

    def _start(self) -> tuple[Transport, Pipeline]:
        settings = self._settings
        if settings.checkpoint.ref is None:
            raise ConfigurationError(
                "no checkpoint: give --checkpoint REF (a directory, or STORE/NAME@VERSION_OR_ALIAS)"
            )
        try:
            server = HttpServer(settings.http.host, settings.http.port, self._health, self._metrics, lambda: self._info)
        except OSError as error:
            raise ConfigurationError(
                f"http.port {settings.http.port}: {error.strerror or error} (--http.port=0 takes a free one)"
            ) from None
        log.info("listening on %s", server.address)
        transport = make_transport(settings)
        # From the start of the process: a wrong address is told within the time that the setting says.
        transport.connect(round(max(5.0, settings.kafka.startup_timeout - (time.monotonic() - STARTED)), 1))
        output, dead_letters = self._check_topics(transport)
        checkpoint = fetch(settings.checkpoint.ref, settings.checkpoint.cache_dir, log.info)
        pipeline = self._build(checkpoint, transport, output, dead_letters)
        self._health.warm = True
        self._pipeline = pipeline
        threading.excepthook = self._thread_failed
        pipeline.start()
        return transport, pipeline

    def _check_topics(self, transport: Transport) -> tuple[TopicInfo, TopicInfo]:
        kafka = self._settings.kafka
        found = {}
        for name in [*kafka.input_topics, kafka.output_topic, kafka.dead_letter_topic]:
            info = transport.topic(name, kafka.startup_timeout)
            if info is None:
                raise ConfigurationError(
                    f"topic {name!r} does not exist on {kafka.bootstrap_servers}; make it: review-worker topics create"
                )
            found[name] = info
        dead_letters = found[kafka.dead_letter_topic]
        if "compact" in dead_letters.cleanup_policy:
            raise ConfigurationError(
                f"dead-letter topic {kafka.dead_letter_topic!r} is compacted: Kafka would drop letters of equal keys"
            )
        largest = max(found[name].max_message_bytes for name in kafka.input_topics)
        if dead_letters.max_message_bytes < largest + HEADER_ROOM:
            log.warning(
                "%s takes %d bytes a message, %d of the input and our headers may come: large values will be left out",
                kafka.dead_letter_topic, dead_letters.max_message_bytes, largest + HEADER_ROOM,
            )  # fmt: skip
        return found[kafka.output_topic], dead_letters

    def _build(
        self, checkpoint: Checkpoint, transport: Transport, output: TopicInfo, dead_letters: TopicInfo
    ) -> Pipeline:
        from worker.engine.tokenizer import load_tokenizer

        settings, manifest = self._settings, checkpoint.manifest
        model = ModelInfo(name=manifest.name, version=manifest.version, digest=manifest.weights_digest)
        decoder = Decoder(settings.input, manifest.recipe)
        engines = make_engines(checkpoint, settings.engine, log.info)
        for engine in engines:
            engine.warm_up()
            self._metrics.set(m.TOKEN_BUDGET, engine.token_budget)
            self._metrics.set(m.MODEL, 1, model.name, model.version, model.digest, engine.device, engine.dtype)
            log.info(
                "%s@%s on %s in %s: %d tokens a batch, %.0f tokens/s",
                model.name, model.version, engine.device, engine.dtype, engine.token_budget, engine.tokens_per_second,
            )  # fmt: skip
        # An instance id survives restarts and epochs do not: without a name of its own, each process would repeat them.
        worker = f"{settings.kafka.instance_id or socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._metrics.set(m.BUILD, 1, __version__, transport.name)
        self._info |= {
            "worker": worker, "client": transport.name, "group": settings.kafka.group_id,
            "model": f"{model.name}@{model.version}", "digest": model.digest, "labels": manifest.labels,
            "devices": [engine.device for engine in engines], "dtype": engines[0].dtype,
            "token_budget": engines[0].token_budget,
        }  # fmt: skip
        accounting = Accounting(self._metrics)
        accounting.declare(manifest.labels, manifest.version)
        return Pipeline(
            settings,
            transport,
            decoder,
            TokenizeStage(load_tokenizer(checkpoint).encode_batch_fast, manifest.recipe),
            [InferStage(engine, model, self._metrics) for engine in engines],
            ResultWriter(settings.kafka.output_topic, output, worker, include_review=settings.output.include_review),
            DeadLetterWriter(settings.kafka.dead_letter_topic, dead_letters, worker),
            accounting,
            self._health,
            sum(engine.tokens_per_second for engine in engines),
        )

    def _watch(self, pipeline: Pipeline) -> int:
        """Waits for the end, and makes one where a stage stalls: the main thread waits for no other."""
        while not pipeline.wait(0.1):
            # For a stage that hangs with the interpreter's lock, which stops this thread too.
            faulthandler.dump_traceback_later(self._health.limits["consume"], exit=True)
            if stalled := self._health.stalled(time.monotonic()):
                pipeline.fail(Stalled(stalled))
            if self._health.draining and self._drain_deadline is None:  # a signal, or the breaker
                self._drain_deadline = time.monotonic() + self._settings.drain_timeout
            if self._drain_deadline is not None and time.monotonic() > self._drain_deadline:
                log.error("not drained within %g s: the rest stays uncommitted", self._settings.drain_timeout)
                pipeline.fail(TimeoutError("drain"))
        if isinstance(pipeline.error, TransportConfigurationError):
            print(f"review-worker: {pipeline.error}", file=sys.stderr)
            return MISCONFIGURED
        if pipeline.error is not None:
            log.error("fault: %s: %s", type(pipeline.error).__name__, pipeline.error)
            return FAULT
        return TRIPPED if pipeline.tripped else DRAINED

    def _thread_failed(self, raised: threading.ExceptHookArgs) -> None:
        """For threads that are not the pipeline's: a client's may be what brings the acknowledgements."""
        error = raised.exc_value or RuntimeError("killed")
        log.error("a thread failed", exc_info=error)
        assert self._pipeline is not None
        self._pipeline.fail(error)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self._pipeline is None:
            raise Stopped
        if self._stopping:
            os._exit(FAULT)
        self._stopping = True
        self._pipeline.drain()
        log.info("%s: draining", signal.Signals(number).name)


class Stopped(BaseException):
    """A signal before anything was consumed."""


def run(settings: Settings) -> int:
    """Runs one worker and ends the process: threads might keep it from ending. Returns after a mistake only."""
    code = Service(settings).run()
    if code == MISCONFIGURED:
        return code
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
