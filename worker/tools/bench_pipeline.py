"""`review-worker bench pipeline`: the whole worker on Kafka, against its own engine, and its latency under load."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.configuration import load_settings

if TYPE_CHECKING:
    from worker.settings import KafkaSettings, Settings
    from worker.tools.demo_stream import Review
    from worker.tools.process import WorkerProcess

PARTS = ("consume", "decode", "tokenize", "infer", "publish", "client", "other", "native")
SHARES = (0.5, 0.7, 0.9)
DEADLINE = 600.0


def bench_pipeline_command(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Option(help="Directory, or STORE/NAME@VERSION_OR_ALIAS.")],
    input: Annotated[str, typer.Option(help="Reviews to stream: CSV, JSONL or Parquet, optionally compressed.")],
    device: Annotated[str, typer.Option(help="As engine.device; simulated leaves out the model.")] = "auto",
    records: Annotated[int, typer.Option(min=1000, help="Records in the topic before the worker starts.")] = 20_000,
    seconds: Annotated[float, typer.Option(min=2, help="Length of each latency measurement.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Only the line of JSON.")] = False,
) -> None:
    """Measure the worker end to end: throughput, CPU by part, and latency at 50, 70 and 90 % of the highest rate.

    Uses a local Kafka, or that of WORKER_KAFKA__BOOTSTRAP_SERVERS. The last line of standard output is JSON.

    Example: review-worker bench pipeline --checkpoint store/reviews@production --input reviews.csv --device simulated
    """
    from rich.console import Console

    from worker.tools.broker import choose_broker
    from worker.tools.demo_stream import Review
    from worker.tools.events import read_events

    console = Console(stderr=True, quiet=as_json)
    texts = [json.loads(value)["text"] for _, value in read_events(input, skip_bad_rows=True, bad=[])]
    reviews = [Review(f"r{number}", texts[number % len(texts)], "") for number in range(records)]
    with ExitStack() as stack:
        broker = stack.enter_context(choose_broker(os.environ, for_tests=False))
        flags = [*context.args, f"--kafka.bootstrap_servers={broker.bootstrap_servers}", f"--engine.device={device}"]
        result = _drain(console.print, flags, checkpoint, reviews)
        engine = _engine_rate(load_settings(None, flags, checkpoint={"ref": checkpoint}), texts[:2000])
        result["share_of_engine"] = round(result["reviews_per_second"] / engine, 3)
        console.print(f"the engine alone, tokenization included: {engine:,.0f} reviews/s")
        for share in SHARES:
            latency = _open_loop(flags, checkpoint, reviews, share * result["reviews_per_second"], seconds)
            result["latency_ms"][str(share)] = latency
            console.print(f"at {share:.0%} of that rate: {latency}")
    print(json.dumps(result))


def _settings(flags: list[str], tag: str) -> tuple[KafkaSettings, dict[str, Any]]:
    """A fresh set of topics, and the flags of a worker on them."""
    from worker.tools.topics import create
    from worker.transport.admin import Admin

    names = {
        "kafka.input_topic": tag, "kafka.output_topic": f"{tag}.out", "kafka.dead_letter_topic": f"{tag}.dead",
        "kafka.group_id": tag, **dict(flag.removeprefix("--").split("=", 1) for flag in flags),
    }  # fmt: skip
    kafka = load_settings(None, [f"--{name}={value}" for name, value in names.items()]).kafka
    with Admin(kafka) as admin:
        create(admin, kafka)
    return kafka, names


def _drain(say: Callable[[str], None], flags: list[str], checkpoint: str, reviews: list[Review]) -> dict[str, Any]:
    """Fills a topic, then lets a worker drain it; measured between the first and the last tenth."""
    from worker.tools.demo_stream import Ledger, Sender
    from worker.tools.process import WorkerProcess

    kafka, names = _settings(flags, f"bench-{time.time_ns()}")
    sender = Sender(kafka, Ledger({}))
    sender.burst(reviews)
    sender.close()
    with tempfile.TemporaryDirectory() as folder, WorkerProcess(checkpoint, Path(folder) / "log", names) as worker:
        worker.wait_ready(300)
        first = _measure_at(worker, len(reviews) // 10)
        last = _measure_at(worker, len(reviews) * 9 // 10)
        worker.signal()
        worker.wait(60)
    took, count = last["time"] - first["time"], last["labelled"] - first["labelled"]
    cpu = {part: (last[part] - first[part]) / count * 1e6 for part in PARTS}
    cpu["total_outside_model"] = sum(cpu[part] for part in PARTS if part not in ("infer", "native"))
    device = (last["device_busy"] - first["device_busy"]) / took
    interpreter = sum(last[part] - first[part] for part in PARTS if part != "native") / took
    saturated = "device" if device > 0.9 else "interpreter" if interpreter > 0.85 else "neither"
    say(f"{count / took:,.0f} reviews/s; device busy {device:.0%}, interpreter busy {interpreter:.0%}")
    say("CPU µs a record: " + ", ".join(f"{part} {us:.1f}" for part, us in cpu.items()))
    return {
        "reviews_per_second": round(count / took, 1),
        "cpu_us_per_record": {part: round(us, 1) for part, us in cpu.items()},
        "saturated": saturated,
        "device_busy": round(device, 3),
        "client": names.get("kafka.client", "auto"),
        "latency_ms": {},
    }


def _measure_at(worker: WorkerProcess, labelled: int) -> dict[str, float]:
    """Time and counters once so many results are acknowledged."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end and worker.running:
        _, body = worker.get("/metrics")
        values = [line.rsplit(" ", 1) for line in body.splitlines() if line.startswith("review_worker_")]

        def total(name: str, values: list[list[str]] = values) -> float:
            return sum(float(value) for series, value in values if series.startswith(name))

        done = total("review_worker_labelled_records_total")
        if done >= labelled:
            cpu = {part: total(f'review_worker_cpu_seconds_total{{part="{part}"}}') for part in PARTS}
            busy = total("review_worker_device_busy_seconds_total")
            return {"time": time.monotonic(), "labelled": done, "device_busy": busy, **cpu}
        time.sleep(0.05)  # a longer wait would only make the two marks less exact
    raise TimeoutError(f"{labelled} results did not come:\n{worker.log}")


def _engine_rate(settings: Settings, texts: list[str]) -> float:
    """Reviews a second of tokenizer and engine alone, in batches of the budget, the second of two rounds."""
    from schemas.recipe import tokenize
    from schemas.store import fetch
    from worker.engine.choice import make_engines
    from worker.engine.tokenizer import load_tokenizer

    assert settings.checkpoint.ref is not None
    checkpoint = fetch(settings.checkpoint.ref, settings.checkpoint.cache_dir)
    (engine, *_) = make_engines(checkpoint, settings.engine)
    engine.warm_up()
    encode = load_tokenizer(checkpoint).encode_batch_fast
    rate = 0.0
    for _ in range(2):
        started, at = time.monotonic(), 0
        tokens = [item.ids for item in tokenize(encode, checkpoint.manifest.recipe, texts)]
        while at < len(tokens):
            batch: list[list[int]] = []
            cost = 0
            while at < len(tokens) and (not batch or cost + len(tokens[at]) <= engine.token_budget):
                cost += len(tokens[at])
                batch.append(tokens[at])
                at += 1
            engine.classify(batch)
        rate = len(texts) / (time.monotonic() - started)
    return rate


def _open_loop(
    flags: list[str], checkpoint: str, reviews: list[Review], rate: float, seconds: float
) -> dict[str, float]:
    """Latency percentiles in ms, scheduled sending to result consumed, at a fixed rate."""
    from worker.tools.demo_stream import Ledger, Receivers, Sender
    from worker.tools.demo_view import percentiles
    from worker.tools.process import WorkerProcess

    kafka, names = _settings(flags, f"bench-{time.time_ns()}")
    count = min(len(reviews), int(rate * seconds))
    ledger = Ledger({review.review_id: review for review in reviews[:count]})
    with tempfile.TemporaryDirectory() as folder, WorkerProcess(checkpoint, Path(folder) / "log", names) as worker:
        worker.wait_ready(300)
        receivers, sender = Receivers(kafka, ledger), Sender(kafka, ledger)
        sender.steady(reviews[:count], rate, threading.Event())
        sender.close()
        end = time.monotonic() + DEADLINE
        while ledger.done < count and time.monotonic() < end and worker.running:
            time.sleep(0.05)
        receivers.close()
    return percentiles(ledger.latencies)
