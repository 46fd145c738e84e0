"""`review-worker demo`: everything at once, for real. Trains a checkpoint, starts Kafka and a worker, streams reviews.

The trainer is run as its own command: all that worker and training share is the checkpoint store.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.datafiles import Row, read_rows
from schemas.store import CheckpointError, fetch
from worker.configuration import ConfigurationError, load_settings
from worker.tools.watchdog import Watchdog

if TYPE_CHECKING:
    from rich.console import Console

    from worker.tools.demo_stream import Ledger
    from worker.tools.demo_view import View

REVIEWS = Path(__file__).parents[2] / "training" / "data" / "vader_reviews.csv.gz"
BROKEN_REVIEWS = 5
HELD_OUT_PERCENT = 12
TRAINING_ROWS = "4000"  # a minute or two on two cores; more would make it better and the wait longer
OUTCOME_DEADLINE = 120.0
INTERRUPTED = 130  # 128 + SIGINT, as shells say it


def demo_command(
    directory: Annotated[Path, typer.Option(help="Where checkpoint, base model and logs are kept.")] = Path(".demo"),
    rate: Annotated[float, typer.Option(min=1, help="Reviews a second in the steady part.")] = 60.0,
    seconds: Annotated[
        float, typer.Option(min=1, help="Length of the steady part; the rest then comes at once.")
    ] = 10.0,
    svg: Annotated[Path | None, typer.Option(help="Also save a picture of the live view (SVG).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Taken as elsewhere; the last line is JSON anyway.")] = True,
) -> None:
    """Train on real reviews, start Apache Kafka and a worker, and label a stream of reviews held out from training.

    Needs no Docker and no Java. Uses the Kafka of WORKER_KAFKA__BOOTSTRAP_SERVERS instead of its own where that is set.
    Ends by itself; Ctrl-C ends it earlier. The last line of standard output is JSON; its reviews_per_second is the rate
    of the backlog, null where that was not reached.

    Example: review-worker demo --rate 100
    """
    from rich.console import Console

    started = time.monotonic()
    console = Console(stderr=True, record=svg is not None)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--directory {directory}: {error.strerror}") from None
    try:
        reference = _checkpoint(console, directory)
        with ExitStack() as stack:
            summary = _stream(console, stack, directory, reference, rate, seconds, svg)
    except KeyboardInterrupt:  # before the stream: there is nothing to sum up
        console.show_cursor()
        print("\nreview-worker demo: interrupted", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    summary["seconds"] = round(time.monotonic() - started, 1)
    _explain(console, summary)
    print(json.dumps(summary))
    raise typer.Exit(1 if summary["lost"] or summary["duplicates"] else 0)


# The checkpoint ---------------------------------------------------------------------------------------------------


def _checkpoint(console: Console, directory: Path) -> str:
    """Reference of a checkpoint trained on the reviews that the demo does not stream; kept from run to run."""
    reference = f"{directory.resolve()}/store/demo@production"
    try:
        manifest = fetch(reference, directory).manifest
        console.print(f"Checkpoint {manifest.name}@{manifest.version} is there from an earlier run")
    except CheckpointError:
        console.print("Training a checkpoint: all-MiniLM-L6-v2, fine-tuned on film and product reviews", style="bold")
        training, base = directory / "train.csv", directory / "base-model"
        _write_training_file(training)
        bin = Path(sys.executable).parent
        _run([sys.executable, "-m", "training.base_model", str(base)])
        fit = [str(bin / "review-train"), "fit", "--data", str(training), "--label-column", "label"]
        kept = ["--store", f"{directory.resolve()}/store", "--name", "demo", "--promote", "production"]
        short = ["--recipe", "fast", "--epochs", "1", "--max-train-rows", TRAINING_ROWS]
        _run([*fit, "--base-model", str(base), *kept, *short])
        fetch(reference, directory)
    return reference


def _run(command: list[str]) -> None:
    """In a session of its own: on Ctrl-C one of us speaks, and it ends without a word."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        watchdog = Watchdog(process.pid)
        try:
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            watchdog.release()
    if code != 0:
        raise ConfigurationError(f"`{' '.join(command)}` ended with exit code {code}")


def _held_out(row: Row) -> bool:
    return zlib.crc32(row.values["text"].strip().lower().encode()) % 100 < HELD_OUT_PERCENT


def _labelled_rows() -> Iterator[Row]:
    for row in read_rows(str(REVIEWS)):
        if isinstance(row, Row) and row.values["label"]:
            yield row


def _write_training_file(path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label"])
        writer.writerows([row.values[name] for name in ("id", "text", "label")]
                         for row in _labelled_rows() if not _held_out(row))  # fmt: skip


# The stream -------------------------------------------------------------------------------------------------------


def _stream(
    console: Console, stack: ExitStack, directory: Path, reference: str, rate: float, seconds: float, svg: Path | None
) -> dict[str, Any]:
    from worker.tools.broker import choose_broker
    from worker.tools.demo_stream import Ledger, Receivers, Review, Sender
    from worker.tools.demo_view import View
    from worker.tools.process import WorkerProcess
    from worker.tools.topics import create
    from worker.transport.admin import Admin

    with console.status("Starting Apache Kafka") as status:
        broker = stack.enter_context(choose_broker(os.environ, for_tests=False, on_progress=status.update))
        names = {"kafka.bootstrap_servers": broker.bootstrap_servers}
        if broker.kind == "given":  # somebody's cluster: topics of our own, never theirs
            tag = f"review-demo-{int(time.time())}"
            names |= {"kafka.input_topic": tag, "kafka.output_topic": f"{tag}.labelled",
                      "kafka.dead_letter_topic": f"{tag}.dead-letters", "kafka.group_id": tag}  # fmt: skip
        settings = load_settings(None, [f"--{name}={value}" for name, value in names.items()])
        with Admin(settings.kafka) as admin:
            create(admin, settings.kafka)
        status.update("Starting the worker")
        worker = stack.enter_context(WorkerProcess(reference, directory / "worker.log", names))
        worker.wait_ready(120)

    reviews = [
        Review(row.values["id"], row.values["text"], row.values["label"]) for row in _labelled_rows() if _held_out(row)
    ]
    steady_count = min(len(reviews), int(rate * seconds))
    steady, backlog = reviews[:steady_count], reviews[steady_count:]
    broken = [Review(f"broken-{number}", "", None) for number in range(BROKEN_REVIEWS)]
    ledger = Ledger({review.review_id: review for review in reviews})
    receivers = Receivers(settings.kafka, ledger)
    stack.callback(receivers.close)
    sender = Sender(settings.kafka, ledger)
    stack.callback(sender.close)
    stop = threading.Event()
    view = stack.enter_context(View(console, ledger))

    def finished(wanted: int) -> bool:
        view.refresh()
        return ledger.done >= wanted or receivers.error is not None or not worker.running

    interrupted = False
    drain_rate = None
    try:
        view.phase = f"a steady stream of {rate:g} reviews a second, on {broker.kind} Kafka"
        thread = threading.Thread(target=sender.steady, args=([*steady, *broken], rate, stop), daemon=True)
        thread.start()
        _wait(lambda: finished(len(steady) + len(broken)) and not thread.is_alive())
        view.phase = f"a backlog of {len(backlog):,} reviews, as fast as the worker can"
        backlog_at = time.monotonic()
        sender.burst(backlog)
        _wait(lambda: finished(len(reviews) + len(broken)))
        if ledger.last_at > backlog_at:
            drain_rate = round(len(backlog) / (ledger.last_at - backlog_at), 1)
        if svg:
            _picture(svg, view)
    except KeyboardInterrupt:
        interrupted = True
        stop.set()
    sender.close()
    if interrupted:
        _wait(lambda: finished(ledger.sent))
    worker.signal()
    worker.wait(60)
    if receivers.error is not None:
        raise receivers.error
    if broker.kind == "given":
        console.print(f"Your cluster now has three topics more: {settings.kafka.input_topics[0]}*", style="yellow")
    return _summary(ledger, broker.kind, drain_rate)


def _wait(condition: Any) -> None:
    end = time.monotonic() + OUTCOME_DEADLINE
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)  # the pace of the picture, not of the stream


def _picture(path: Path, view: View) -> None:
    from rich.console import Console

    console = Console(record=True, width=110, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    console.print(view.page())
    path.parent.mkdir(parents=True, exist_ok=True)
    svg = console.export_svg(title="make demo")
    fonts = r',\s*url\("[^"]*"\) format\("\w+"\)'  # from elsewhere, which a picture should not load
    path.write_text(re.sub(fonts, "", svg))


def _summary(ledger: Ledger, broker: str, drain_rate: float | None) -> dict[str, Any]:
    from worker.tools.demo_view import percentiles

    duplicates = sum(ledger.results.values()) - len(ledger.results)
    return {
        "reviews": ledger.sent,
        "labelled": len(ledger.results),
        "dead_lettered": ledger.dead_letters,
        "lost": ledger.sent - ledger.done,
        "duplicates": duplicates,
        "accuracy": round(ledger.right / max(1, len(ledger.results)), 4),
        "reviews_per_second": drain_rate,
        "latency_ms": percentiles(ledger.latencies),
        "broker": broker,
    }


def _explain(console: Console, summary: dict[str, Any]) -> None:
    latency = summary["latency_ms"]
    rate = summary["reviews_per_second"]
    backlog = f"; the backlog went at {rate:,.0f} reviews a second" if rate is not None else ""
    console.print(
        f"\n[bold]{summary['reviews']:,} reviews went in; {summary['labelled']:,} came out labelled and "
        f"{summary['dead_lettered']} broken ones went to the dead letters. {summary['lost']} lost, "
        f"{summary['duplicates']} doubled.[/bold]\n"
        f"{summary['accuracy']:.1%} of the labels are what people said of the review; none of them was trained on.\n"
        f"In the steady stream a result was there {latency['p50']:g} ms after its review was due (p50; "
        f"p95 {latency['p95']:g} ms, p99 {latency['p99']:g} ms){backlog}.",
        highlight=False,
        soft_wrap=True,
    )
