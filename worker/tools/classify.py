"""`review-worker classify`: a file of reviews labelled by the stages of the worker, without Kafka."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, TextIO, TypeVar

import typer

from worker.configuration import ConfigurationError, load_settings
from worker.settings import Settings
from worker.tools.connection import Config
from worker.tools.events import skipped

ROWS = 512
T = TypeVar("T")
R = TypeVar("R")


def classify_command(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Option(help="Directory, or STORE/NAME@VERSION_OR_ALIAS.")],
    input: Annotated[
        str, typer.Option(help="CSV, JSONL or Parquet, optionally compressed; - is JSONL from stdin.")
    ] = "-",
    output: Annotated[
        Path | None, typer.Option(help="JSONL of labelled reviews; standard output if not given.")
    ] = None,
    config: Config = None,
    skip_bad_rows: Annotated[bool, typer.Option(help="Go on without rows that cannot be labelled; else stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on standard output.")] = False,
) -> None:
    """Label a file of reviews, without Kafka. Settings such as --engine.dtype=float32 may follow.

    Example: review-worker classify --checkpoint store/reviews@production --input new.jsonl --output labelled.jsonl
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    if as_json and output is None:
        raise typer.BadParameter("--json needs --output: both would go to standard output")
    settings = load_settings(config, context.args, checkpoint={"ref": checkpoint})
    try:
        target: TextIO = output.open("w", encoding="utf-8") if output else sys.stdout
    except OSError as error:
        raise ConfigurationError(f"--output {output}: {error.strerror}") from None
    console = Console(stderr=True)
    bad: list[str] = []
    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                     console=console, transient=True)
        )  # fmt: skip
        task = progress.add_task("loading the checkpoint", total=None)
        lines = _labelled(settings, input, skip_bad_rows=skip_bad_rows, bad=bad)
        next(lines)
        progress.update(task, description="reviews")
        if output:
            stack.enter_context(target)
        started, reviews = time.monotonic(), 0
        for chunk in lines:
            target.writelines(chunk)
            reviews += len(chunk)
            progress.update(task, completed=reviews)
    seconds = time.monotonic() - started
    for line in skipped(bad):
        console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
    rate = reviews / seconds if seconds else 0.0
    console.print(f"{reviews:,} reviews labelled, {len(bad):,} rejected, {rate:,.0f} reviews/s")
    if as_json:
        summary = {"reviews": reviews, "rejected": len(bad), "seconds": round(seconds, 3), "reviews_per_second": rate}
        print(json.dumps(summary))


def _labelled(settings: Settings, path: str, *, skip_bad_rows: bool, bad: list[str]) -> Iterator[list[str]]:
    """Nothing once the model is ready, then lines of labelled reviews in the order of the file."""
    from schemas.labeled import ModelInfo
    from schemas.store import fetch
    from worker.batching import TokenQueue
    from worker.decode import Decoder
    from worker.engine.choice import make_engines
    from worker.engine.tokenizer import load_tokenizer
    from worker.infer import InferStage
    from worker.metrics import Metrics
    from worker.publish import ResultWriter
    from worker.tokenize import TokenizeStage
    from worker.tools.events import note_bad_row, read_events
    from worker.transport.interface import Outgoing, Record, TopicInfo, TopicPartition
    from worker.work import Work

    assert settings.checkpoint.ref is not None
    checkpoint = fetch(settings.checkpoint.ref, settings.checkpoint.cache_dir)
    manifest = checkpoint.manifest
    decoder = Decoder(settings.input, manifest.recipe)
    tokenizer = TokenizeStage(load_tokenizer(checkpoint).encode_batch_fast, manifest.recipe)
    engines = make_engines(checkpoint, settings.engine)
    model = ModelInfo(name=manifest.name, version=manifest.version, digest=manifest.weights_digest)
    idle: SimpleQueue[InferStage] = SimpleQueue()
    for engine in engines:
        engine.warm_up()
        idle.put(InferStage(engine, model, Metrics()))
    budget = min(engine.token_budget for engine in engines)
    writer = ResultWriter("", TopicInfo(1, 2**31, "delete"), "classify", include_review=settings.output.include_review)
    waiting: TokenQueue[Work] = TokenQueue()
    chunk: list[Work] = []

    def place(work: Work) -> str:
        return f"{work.record.topic}:{work.record.offset}"

    def prepare() -> None:
        decoder.decode(chunk)
        tokenizer.tokenize(chunk)
        for work in chunk:
            if work.rejection is not None:
                note_bad_row(f"{place(work)}: {work.rejection.error}", skip_bad_rows=skip_bad_rows, bad=bad)
        waiting.put(work for work in chunk if work.rejection is None)
        chunk.clear()

    def batches() -> Iterator[list[Work]]:
        for row, value in read_events(path, skip_bad_rows=skip_bad_rows, bad=bad):
            record = Record(row.file, 0, row.number, 0, None, value, ())
            chunk.append(Work(record, TopicPartition(path, 0), 0, len(value), 0.0))
            if len(chunk) == ROWS:
                prepare()
                while waiting.tokens >= budget:
                    yield waiting.take(budget)
        prepare()
        while waiting:
            yield waiting.take(budget)

    def infer(works: list[Work]) -> list[Work]:
        stage = idle.get()
        try:
            stage.infer(works)
        finally:
            idle.put(stage)
        return works

    def lines(works: list[Work]) -> list[str]:
        lines = []
        for work in works:
            written = work.rejection or writer.write(work)
            if isinstance(written, Outgoing):
                lines.append((written.value or b"").decode() + "\n")
            else:
                note_bad_row(f"{place(work)}: {written.error}", skip_bad_rows=skip_bad_rows, bad=bad)
        return lines

    yield []
    yield from map(lines, _at_once(infer, batches(), len(engines)))


def _at_once(function: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """What `map` gives, in its order, computed in so many threads; takes only one more item than they work on."""
    with ThreadPoolExecutor(threads) as pool:
        running: deque[Future[R]] = deque()
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
