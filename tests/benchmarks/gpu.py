"""The engine on a GPU, in one command, on a machine with only torch, transformers and numpy: random weights will do.

    python tests/benchmarks/gpu.py [--model base|minilm] [--lengths FILE] [--without-kernels] [--profile]

What it says first is whether the packed forward, with its kernels and without, the CUDA graphs and the staging give the
stock model's answers; it exits 1 at once if not. Target on an H200, BERT base, bf16: at least 60 % of the
rate of a bf16 square of 8192 and 50,000 reviews/s. The last line of standard output is JSON; tests/benchmarks/results
has what was measured. What needs checkpoints is in tests/benchmarks/test_gpu.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from worker.engine import attention, bert, device, linear
from worker.engine.attention import Batch
from worker.engine.bert import PackedBert, random_weights
from worker.engine.cuda import CudaForward
from worker.engine.engine import Engine
from worker.engine.packing import Slots, pack, split
from worker.engine.spec import BertSpec, products

REPOSITORY = Path(__file__).parents[2]
SPECS = {"base": BertSpec(), "minilm": BertSpec(layers=6, hidden=384, inner=1536)}
LONGEST = 150
MOST = 131_072
DEVICE = torch.device("cuda", 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SPECS, default="base")
    parser.add_argument("--lengths", default=str(REPOSITORY / "worker/tools/review_lengths.json"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--without-kernels", action="store_true", help="as on a machine without a C compiler")
    parser.add_argument("--budgets", default="16384,32768,65536,131072", help="tokens a batch, separated by commas")
    parser.add_argument("--profile", action="store_true", help="print the kernels that take the time")
    arguments = parser.parse_args()
    global SPEC
    SPEC = SPECS[arguments.model]
    if not torch.cuda.is_available():
        sys.exit("no GPU that torch can use")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if arguments.without_kernels:
        attention.gpu_kernels = bert.gpu_kernels = linear.gpu_kernels = device.gpu_kernels = lambda device: None
    fused = device.gpu_kernels(DEVICE) is not None
    say(f"{torch.cuda.get_device_name(DEVICE)}, torch {torch.__version__}, C compiler: {compiler or 'none'}, "
        f"fused kernels: {'used' if fused else 'not usable'}")  # fmt: skip
    reviews = made_up(arguments.lengths)
    weights = random_weights(SPEC)
    forward = on_gpu(weights, torch.bfloat16)
    equality = check(reviews[:512])
    say(f"equality: {equality}")
    survival = survives(weights, reviews[:2000])
    say(f"short of memory: {survival}")
    if equality["float32"] > 1e-4 or equality["bfloat16_agreement"] < 0.995 or not survival["self_test"]:
        sys.exit("wrong answers: how fast they come does not matter")
    square = square_rate()
    say(f"bf16 square of 8192: {square / 1e12:.0f} TFLOP/s")
    operations = sum(2.0 * outputs * inputs * times for (outputs, inputs), times in products(SPEC).items())
    mean = statistics.mean(map(len, reviews))
    rates = {}
    for budget in map(int, arguments.budgets.split(",")):
        limit = device_limit(forward, reviews[next(iter(split([len(review) for review in reviews], budget)))])
        say(f"{budget:,} tokens, the device alone: {limit * operations / square:.1%} of the square's rate")
        for threads in (1, 2):
            rate = tokens_per_second(forward, reviews, budget, threads, arguments.seconds)
            rates[budget, threads] = rate
            say(f"{budget:,} tokens, {threads} threads: {rate / mean:,.0f} reviews/s, "
                f"{rate * operations / square:.1%} of the square's rate")  # fmt: skip
    budget, threads = max(rates, key=lambda key: rates[key])
    best = rates[budget, threads]
    single = {
        "graph": latency(forward, reviews[0]),
        "eager": latency(on_gpu(weights, torch.bfloat16, graphs=False), reviews[0]),
    }
    say(f"one review: {single} ms")
    hiccup = worst_latency(forward, reviews)
    say(f"slowest of 400 batches of any size up to 16,384 tokens: {hiccup} ms")
    sorted_padded = padded_rate(weights, reviews[:8192])
    say(f"transformers in bf16, sorted, padded: {sorted_padded:,.0f} reviews/s")
    if arguments.profile:
        profile(forward, reviews, budget)
    print(json.dumps({
        "device": torch.cuda.get_device_name(DEVICE), "torch": torch.__version__, "fused": fused, "equality": equality,
        "short_of_memory": survival,
        "square_tflops": round(square / 1e12, 1), "engine_tflops": round(best * operations / 1e12, 1),
        "share_of_square": round(best * operations / square, 3), "reviews_per_second": round(best / mean),
        "model": arguments.model, "worst_of_400_batches_ms": hiccup,
        "token_budget": budget, "threads": threads, "mean_tokens": round(mean, 1), "one_review_ms": single,
        "sorted_padded_reviews_per_second": round(sorted_padded),
    }))  # fmt: skip


def on_gpu(weights: dict[str, torch.Tensor], dtype: torch.dtype, graphs: bool = True) -> CudaForward:
    model = PackedBert(SPEC, weights, DEVICE, dtype)
    forward = CudaForward(model, DEVICE, dtype, SPEC.vocabulary, MOST, LONGEST, graphs=graphs)
    forward.warm_up()
    return forward


def engine_of(forward: CudaForward, budget: int) -> Engine:
    return Engine(forward, ["negative", "positive"], LONGEST, budget)


def check(reviews: list[list[int]]) -> dict[str, float]:
    """Largest differences of probabilities, under weights large enough to make them differ from review to review.

    bf16 and float32 here against the stock padded model in float32; graphs against the same kernels launched one by
    one, with one, few and most sequences, each after a batch of another shape.
    """
    weights = {name: tensor * 5 if tensor.ndim == 2 else tensor for name, tensor in random_weights(SPEC).items()}
    reference = stock(weights, torch.float32)
    expected = torch.cat([reference(*padded(reviews[i : i + 64])) for i in range(0, len(reviews), 64)]).numpy()
    exact = engine_of(on_gpu(weights, torch.float32), 4096).classify(reviews)
    forward, eager = on_gpu(weights, torch.bfloat16), on_gpu(weights, torch.bfloat16, graphs=False)
    # Of many small batches, launched as graphs, and of few large ones, whose wide products are our own kernel.
    bf16, large = (engine_of(forward, budget).classify(reviews) for budget in (4096, 16_384))
    worst = 0.0
    for batch in ([reviews[0]], reviews[:5], reviews[:24], [[7]] * 100, [reviews[1]], reviews[:60]):
        worst = max(worst, float(np.abs(forward(pack(batch)) - eager(pack(batch))).max()))
    return {
        "spread": float(np.ptp(expected[:, 0])),
        "float32": float(np.abs(exact - expected).max()),
        "bfloat16": float(np.abs(bf16 - expected).max()),
        "bfloat16_large_batches": float(np.abs(large - expected).max()),
        "bfloat16_agreement": float((bf16.argmax(1) == expected.argmax(1)).mean()),
        "graphs_against_eager": worst,
    }


def survives(weights: dict[str, torch.Tensor], reviews: list[list[int]]) -> dict[str, int | float]:
    """With 2 GiB of memory allowed: what becomes of a budget that does not fit, and whether the answers stay."""
    forward = on_gpu(weights, torch.bfloat16)
    expected = engine_of(forward, 4096).classify(reviews)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        (2 << 30) / torch.cuda.get_device_properties(DEVICE).total_memory, DEVICE
    )
    try:
        engine = Engine(forward, ["negative", "positive"], LONGEST, MOST)
        engine.warm_up()
        found = engine.classify(reviews)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, DEVICE)
    return {
        "asked": MOST, "found": engine.token_budget, "self_test": engine.self_test(),
        "differs": float(np.abs(found - expected).max()),
    }  # fmt: skip


def device_limit(forward: CudaForward, batch: list[list[int]]) -> float:
    """Tokens a second were batches on the device already and the host never late."""
    packed = pack(batch)
    slots = Slots.exactly(packed)
    numbers = torch.empty(slots.size, dtype=torch.int32)
    slots.fill(numbers.numpy(), packed)
    with torch.inference_mode(), torch.cuda.stream(forward._stream):
        ready = Batch.of_slots(slots, numbers.to(DEVICE), packed.longest)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        for times in range(25):
            if times == 5:
                begin.record()
            forward._model(ready)
        end.record()
    torch.cuda.synchronize()
    return 20 * packed.tokens / (begin.elapsed_time(end) / 1e3)


def stock(weights: dict[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """Hugging Face's own model: padded ids and mask → probabilities on the CPU."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=SPEC.vocabulary, num_hidden_layers=SPEC.layers, hidden_size=SPEC.hidden,
        num_attention_heads=SPEC.heads, intermediate_size=SPEC.inner,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model.load_state_dict(weights, strict=False)
    model = model.to(DEVICE, dtype).eval()

    @torch.inference_mode()
    def run(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids.to(DEVICE), attention_mask=mask.to(DEVICE)).logits
        return logits.float().softmax(-1).cpu()

    return run


def padded(sequences: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, both [sequences, longest]."""
    width = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    return ids, (torch.arange(width) < torch.tensor([[len(sequence)] for sequence in sequences])).long()


def square_rate() -> float:
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(10):
        a @ b
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(50):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 50 * 2 * 8192**3 / (begin.elapsed_time(end) / 1e3)


def tokens_per_second(
    forward: CudaForward, reviews: list[list[int]], budget: int, threads: int, seconds: float
) -> float:
    """Of as many engines on one model as there are threads, packing included, answers back on the host."""
    batches = [reviews[part] for part in split([len(review) for review in reviews], budget)][:-1]
    engines = [engine_of(forward, budget) for _ in range(threads)]
    for engine in engines:
        engine.classify(batches[0])
    done = [0] * threads
    stop = time.perf_counter() + seconds

    def run(number: int) -> None:
        index = number
        while time.perf_counter() < stop:
            batch = batches[index % len(batches)]
            engines[number].classify(batch)
            done[number] += sum(map(len, batch))
            index += threads

    begin = time.perf_counter()
    workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(done) / (time.perf_counter() - begin)


def milliseconds(engine: Engine, batches: Iterable[list[list[int]]]) -> list[float]:
    took = []
    for batch in batches:
        begin = time.perf_counter()
        engine.classify(batch)
        took.append((time.perf_counter() - begin) * 1e3)
    return took


def latency(forward: CudaForward, review: list[int]) -> float:
    return round(statistics.median(milliseconds(engine_of(forward, 4096), [[review]] * 200)), 3)


def worst_latency(forward: CudaForward, reviews: list[list[int]]) -> float:
    """Of batches of all sizes after warm-up: a kernel compiled or a library loaded only then would show."""
    engine = engine_of(forward, 16_384)
    engine.warm_up()
    random = np.random.default_rng(1)
    places = zip(random.integers(len(reviews) - 400, size=400), random.integers(1, 400, size=400), strict=True)
    return round(max(milliseconds(engine, (reviews[first : first + count] for first, count in places))), 1)


def padded_rate(weights: dict[str, torch.Tensor], reviews: list[list[int]]) -> float:
    model = stock(weights, torch.bfloat16)
    ordered = sorted(reviews, key=len, reverse=True)
    best = 0.0
    for size in (64, 256, 1024):
        batches = [padded(ordered[first : first + size]) for first in range(0, len(ordered), size)]
        model(*batches[0])
        begin = time.perf_counter()
        for batch in batches:
            model(*batch)
        best = max(best, len(ordered) / (time.perf_counter() - begin))
    return best


def profile(forward: CudaForward, reviews: list[list[int]], budget: int) -> None:
    batch = reviews[next(iter(split([len(review) for review in reviews], budget)))]
    with torch.profiler.profile(activities=list(torch.profiler.supported_activities())) as profiler:
        engine_of(forward, budget).classify(batch)
    say(profiler.key_averages().table(sort_by="self_device_time_total", row_limit=25))


def made_up(path: str) -> list[list[int]]:
    """Reviews of random tokens, of the lengths counted in the file, in random order; a few hundred thousand tokens."""
    counts = json.loads(Path(path).read_text())["reviews_of_each_length"]
    random = np.random.default_rng(0)
    lengths = [min(int(length), LONGEST) for length, count in counts.items() for _ in range(count)] * 3
    random.shuffle(lengths)
    return [random.integers(1000, SPEC.vocabulary, length).tolist() for length in lengths]


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
