"""`review-worker bench pipeline`: the whole worker on Kafka, against its own engine, and its latency under load."""

from __future__ import annotations

import json
import os
import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.configuration import load_settings

if TYPE_CHECKING:
    from worker.tools.bench_worker import Mark

SHARES = (0.5, 0.7, 0.9)
DELIVERIES = ("at_least_once", "exactly_once")
SUSTAINED_MS = 1000.0  # p95 of a rate that the worker keeps up with
IDLE_REVIEWS, IDLE_RATE = 60, 5.0  # one after the other, each long after the one before is done


def bench_pipeline_command(
    context: typer.Context,
    checkpoint: Annotated[str, typer.Option(help="Directory, or STORE/NAME@VERSION_OR_ALIAS.")],
    input: Annotated[str, typer.Option(help="Reviews to stream: CSV, JSONL or Parquet, optionally compressed.")],
    device: Annotated[str, typer.Option(help="As engine.device; simulated leaves out the model.")] = "auto",
    records: Annotated[int, typer.Option(min=1000, help="Records in the topic before the worker starts.")] = 20_000,
    seconds: Annotated[float, typer.Option(min=2, help="Length of each latency measurement.")] = 10.0,
    as_json: Annotated[bool, typer.Option("--json", help="Only the line of JSON.")] = False,
) -> None:
    """Measure the worker end to end: throughput, CPU by part, and latency, idle and at 50, 70 and 90 % of the
    highest rate that it sustains.

    Uses a local Kafka, or that of WORKER_KAFKA__BOOTSTRAP_SERVERS. The last line of standard output is JSON.

    Example: review-worker bench pipeline --checkpoint store/reviews@production --input reviews.csv --device simulated
    """
    from rich.console import Console

    from worker.tools.bare_engine import BareEngine
    from worker.tools.bench_worker import BenchWorker
    from worker.tools.broker import choose_broker
    from worker.tools.demo_stream import Review
    from worker.tools.events import read_events

    console = Console(stderr=True, quiet=as_json, soft_wrap=True, highlight=False)
    texts = [json.loads(value)["text"] for _, value in read_events(input, skip_bad_rows=True, bad=[])]
    texts = [texts[number % len(texts)] for number in range(records)]
    reviews = [Review(f"r{number}", text, "") for number, text in enumerate(texts)]
    with ExitStack() as stack:
        broker = stack.enter_context(choose_broker(os.environ, for_tests=False))
        flags = [*context.args, f"--kafka.bootstrap_servers={broker.bootstrap_servers}", f"--engine.device={device}"]
        settings = load_settings(None, flags, checkpoint={"ref": checkpoint})
        worker = BenchWorker(flags, checkpoint, broker.local.pids if broker.local else [])
        bare = BareEngine(settings)
        alone = texts[records // 10 : records * 9 // 10]
        before = bare.reviews_per_second(alone)
        marks = worker.drain(reviews)
        engine = statistics.mean([before, bare.reviews_per_second(alone)])
        result = compared(*marks, engine, bare.engines)
        result["client"] = settings.kafka.client
        console.print("\n".join(described(result)))
        idle = reviews[:IDLE_REVIEWS]
        result["idle_latency_ms"] = {"bare_forward": round(bare.forward_ms(texts[:IDLE_REVIEWS]), 1)} | {
            delivery: worker.open_loop(idle, IDLE_RATE, delivery=delivery)["p50"] for delivery in DELIVERIES
        }
        console.print(f"one review on an idle worker, median ms: {result['idle_latency_ms']}")

        def loaded(rate: float) -> dict[str, float]:
            return worker.open_loop(reviews[: min(records, int(rate * seconds))], rate)

        highest = result["reviews_per_second"]  # less where sending and reading one by one takes the same cores
        while loaded(highest)["p95"] > SUSTAINED_MS:
            highest *= 0.85
        result["sustained_per_second"] = round(highest, 1)
        result["latency_ms"] = {str(share): loaded(share * highest) for share in SHARES}
        console.print(f"highest sustained open-loop rate: {highest:,.1f} reviews/s; at a share of it: ")
        for share, latency in result["latency_ms"].items():
            console.print(f"  {float(share):.0%}: {latency} ms")
    print(json.dumps(result))


def compared(first: Mark, last: Mark, engine: float, engines: int) -> dict[str, Any]:
    """What the worker did between two marks, beside the bare engine's reviews a second.

    What could be expected of it on a processor: the engine's time for a review and the CPU seconds of everything else,
    shared by the cores. `without_broker` is the rate had broker and bench not used the same cores.
    """
    from worker.engine.processor import cores

    took, count = last.time - first.time, last.labelled - first.labelled
    cpu = {part: (last.cpu[part] - first.cpu[part]) / count for part in first.cpu}
    outside = sum(seconds for part, seconds in cpu.items() if part not in ("infer", "native"))
    busy, starved = ((getattr(last, name) - getattr(first, name)) / took / engines for name in ("busy", "starved"))
    interpreter = sum(seconds for part, seconds in cpu.items() if part != "native") * count / took
    others = last.others - first.others
    machine = (sum(cpu.values()) * count + others) / (took * cores())
    rate = count / took
    without_broker = count / (took - others / cores())
    expected = 1 / (1 / engine + outside / cores())
    return {
        "reviews_per_second": round(rate, 1),
        "engine_reviews_per_second": round(engine, 1),
        "share_of_engine": round(rate / engine, 3),
        "without_broker": round(without_broker, 1),
        "expected": round(expected, 1),
        "share_of_expected": round(without_broker / expected, 3),
        "cpu_us_per_record": {part: round(seconds * 1e6, 1) for part, seconds in cpu.items()}
        | {"total_outside_model": round(outside * 1e6, 1), "broker_and_bench": round(others / count * 1e6, 1)},
        "device_busy": round(busy, 3),
        "device_idle_with_work": round(starved, 4),
        "cores_busy": round(machine, 3),
        "saturated": next(
            (
                name
                for name, load in {"device": busy, "interpreter": interpreter, "cores": machine}.items()
                if load > 0.85
            ),
            "none",
        ),
    }


def described(result: dict[str, Any]) -> list[str]:
    """The same for a person."""
    parts = ", ".join(f"{part} {us:g}" for part, us in result["cpu_us_per_record"].items())
    return [
        f"{result['reviews_per_second']:,} reviews/s; the engine alone, tokenization included: "
        f"{result['engine_reviews_per_second']:,} ({result['share_of_engine']:.1%})",
        f"without broker and bench on the same cores {result['without_broker']:,}, of {result['expected']:,} that the "
        f"engine and the CPU around it allow ({result['share_of_expected']:.1%})",
        f"saturated: {result['saturated']}; device busy {result['device_busy']:.0%}, idle while work was queued "
        f"{result['device_idle_with_work']:.2%}; all cores, broker and bench included, {result['cores_busy']:.0%}",
        f"CPU µs a record: {parts}",
    ]
