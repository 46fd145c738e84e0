"""`review-worker bench engine`: the engine alone against the fastest products this machine can do. Knows no Kafka."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.configuration import load_settings

if TYPE_CHECKING:
    from schemas.store import Checkpoint
    from worker.engine import Engine
    from worker.settings import EngineSettings

LENGTHS = Path(__file__).with_name("review_lengths.json")
MAX_LENGTH = 150


def bench_engine_command(
    context: typer.Context,
    checkpoint: Annotated[
        str | None, typer.Option(help="Directory, or STORE/NAME@VERSION_OR_ALIAS; random BERT base if not given.")
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="Reviews whose lengths to use (CSV, JSONL, Parquet); needs --checkpoint.")
    ] = None,
    budgets: Annotated[str, typer.Option(help="Token budgets to try, separated by commas.")] = "512,1024,2048,4096",
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is measured in turn; medians count.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of one measurement of the engine.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Only the line of JSON.")] = False,
) -> None:
    """Measure the engine alone, per token budget, and its share of what the machine's products alone could do.

    Settings such as --engine.dtype=float32 may follow. The last line of standard output is JSON: the best budget's.
    Of int8 no share is given: beside it other products are in another arithmetic.

    Example: review-worker bench engine --checkpoint store/reviews@production --input reviews.csv
    """
    from rich.console import Console

    console = Console(stderr=True, quiet=as_json, soft_wrap=True)
    if input is not None and checkpoint is None:
        raise typer.BadParameter("--input needs --checkpoint: its tokenizer")
    if not all(budget.strip().isdecimal() and int(budget) for budget in budgets.split(",")):
        raise typer.BadParameter(f"--budgets {budgets!r}: expected numbers above 0, separated by commas")
    wanted = list(map(int, budgets.split(",")))
    settings = load_settings(None, context.args)
    if settings.engine.token_budget is not None:
        raise typer.BadParameter("--engine.token_budget: here --budgets says which to try")
    if settings.engine.device.startswith("simulated"):
        raise typer.BadParameter("a simulated device computes nothing that could be measured")
    if settings.engine.dtype == "int8" and checkpoint is None:
        raise typer.BadParameter("--engine.dtype=int8 needs --checkpoint: its tokenizer")
    with tempfile.TemporaryDirectory() as temporary:
        if checkpoint is None:
            loaded = _random_checkpoint(Path(temporary))
        else:
            from schemas.store import fetch

            loaded = fetch(checkpoint, settings.checkpoint.cache_dir)
        reviews = _reviews(loaded, input)
        results = list(_measure(loaded, settings.engine, reviews, wanted, rounds, seconds, console))
    best = max(results, key=lambda result: float(result["reviews_per_second"]))
    console.print(f"best: {best['token_budget']:,} tokens")
    print(json.dumps(best))


def _measure(
    checkpoint: Checkpoint, settings: EngineSettings, reviews: list[list[int]], budgets: list[int], rounds: int,
    seconds: float, console: Any,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    import torch

    from worker.engine.choice import make_engines
    from worker.engine.processor import cores
    from worker.engine.spec import bert_spec, products
    from worker.tools.matrix_rate import ceiling, product_rates, rate

    spec = bert_spec(json.loads((checkpoint.directory / "config.json").read_bytes()))
    counts = products(spec) if spec and settings.dtype != "int8" else {}  # of int8 with others there is no one rate
    operations = sum(2.0 * outputs * inputs * times for (outputs, inputs), times in counts.items())
    mean = statistics.mean(map(len, reviews))
    engines = make_engines(checkpoint, settings.model_copy(update={"token_budget": max(budgets)}), console.print)
    device, devices = torch.device(engines[0].device), len({engine.device for engine in engines})
    for engine in engines:
        engine.warm_up()
    most = min(engine.token_budget for engine in engines)  # what fits the memory
    for budget in sorted({max(min(budget, most), engines[0].longest) for budget in budgets}):
        for engine in engines:
            engine.token_budget = budget
        batches = [_batches(reviews, budget, seed) for seed in range(len(engines))]
        tokens: list[float] = []
        ceilings: list[float] = []
        tried: dict[str, dict[tuple[int, int], float]] = {}
        for _ in range(rounds):
            pairs = zip(engines, batches, strict=True)
            tokens.append(rate([_classify(engine, mine) for engine, mine in pairs], seconds))
            if counts:
                tried = product_rates(
                    list(counts), budget, device, getattr(torch, engines[0].dtype), cores(), seconds / 10
                )
                ceilings.append(devices * ceiling(tried, counts))
        for name, by_shape in tried.items():
            shapes = ", ".join(f"{o}x{i} {value / 1e9:,.0f}" for (o, i), value in by_shape.items())
            console.print(f"  {name}: {shapes} GFLOP/s", highlight=False)
        shares = [now * operations / top for now, top in zip(tokens, ceilings, strict=False)]
        result = {
            "matrix_gflops": round(statistics.median(ceilings) / 1e9, 1) if ceilings else None,
            "engine_gflops": round(statistics.median(tokens) * operations / 1e9, 1) if counts else None,
            "share_of_peak": round(statistics.median(shares), 3) if shares else None,
            "reviews_per_second": round(statistics.median(tokens) / mean, 2),
            "token_budget": budget, "mean_tokens": round(mean, 1), "device": engines[0].device,
            "engines": len(engines), "dtype": engines[0].dtype,
        }  # fmt: skip
        console.print(f"{budget:,} tokens a batch: {result}", highlight=False)
        yield result


def _classify(engine: Engine, batches: Iterator[list[list[int]]]) -> Any:
    def work() -> float:
        batch = next(batches)
        engine.classify(batch)
        return sum(map(len, batch))

    return work


def _batches(reviews: list[list[int]], budget: int, seed: int) -> Iterator[list[list[int]]]:
    """Batches of random reviews, as many each as the budget holds; without end."""
    import numpy as np

    random = np.random.default_rng(seed)
    batch: list[list[int]] = []
    used = 0
    while True:
        review = reviews[random.integers(len(reviews))]
        if batch and used + len(review) > budget:
            yield batch
            batch, used = [], 0
        batch.append(review)
        used += len(review)


def _reviews(checkpoint: Checkpoint, path: str | None) -> list[list[int]]:
    """Token ids of the file's reviews; made-up ones of the bundled reviews' lengths where there is none."""
    import numpy as np

    if path is not None:
        from schemas.recipe import render, tokenize
        from worker.engine.tokenizer import load_tokenizer
        from worker.tools.events import read_events

        recipe = checkpoint.manifest.recipe
        events = (json.loads(event) for _, event in read_events(path, skip_bad_rows=True, bad=[]))
        texts = [render(recipe, event) for event in events if str(event.get("text", "")).strip()]
        if not texts:
            raise typer.BadParameter(f"--input {path}: no reviews in it")
        return [tokens.ids for tokens in tokenize(load_tokenizer(checkpoint).encode_batch_fast, recipe, texts)]
    counts = json.loads(LENGTHS.read_text())["reviews_of_each_length"]
    vocabulary = json.loads((checkpoint.directory / "config.json").read_bytes())["vocab_size"]
    random, longest = np.random.default_rng(0), checkpoint.manifest.recipe.max_length
    lengths = [min(int(length), longest) for length, count in counts.items() for _ in range(count)]
    return [random.integers(vocabulary // 2, vocabulary, length).tolist() for length in lengths]


def _random_checkpoint(directory: Path) -> Checkpoint:
    """BERT base with random weights, whose speed is that of any BERT base."""
    from datetime import UTC, datetime

    from safetensors.torch import save_file

    from schemas.manifest import CheckpointManifest
    from schemas.recipe import TextRecipe
    from schemas.store import Checkpoint, digest
    from worker.engine.bert import random_weights
    from worker.engine.spec import BertSpec

    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 30522}
    (directory / "config.json").write_text(json.dumps(config))
    save_file(random_weights(BertSpec()), directory / "model.safetensors")
    manifest = CheckpointManifest(
        name="random-bert-base", version="v0001", created_at=datetime.now(UTC), labels=["negative", "positive"],
        recipe=TextRecipe(max_length=MAX_LENGTH), base_model="none", training={}, code_version="none",
        library_versions={}, files={path.name: digest(path) for path in directory.iterdir()},
    )  # fmt: skip
    return Checkpoint(directory, manifest)
