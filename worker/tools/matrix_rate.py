"""The ceiling of an engine: how fast this machine does the products of its model and nothing else.

Every weight shape is timed with every kernel there is; the fastest of each counts. Knows nothing of engines or reviews.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from worker.engine.linear import FusedLinear, PlainLinear, has_fused_kernels

Shape = tuple[int, int]
Work = Callable[[], float]
"""Does some work and says how much it was."""


def rate(workers: Sequence[Work], seconds: float) -> float:
    """Work a second of all workers together, each on a thread of its own until the time is over; once beforehand."""
    results: list[float] = []
    errors: list[BaseException] = []
    start = threading.Barrier(len(workers))

    def run(work: Work) -> None:
        try:
            work()
            start.wait(timeout=600)
            done, begin, now = 0.0, time.perf_counter(), 0.0
            while now < seconds:
                done += work()
                now = time.perf_counter() - begin
            results.append(done / now)
        except BaseException as error:
            start.abort()
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return sum(results)


def product_rates(
    shapes: Sequence[Shape], rows: int, device: torch.device, dtype: torch.dtype, cores: int, seconds: float
) -> dict[str, dict[Shape, float]]:
    """Operations a second of x [rows, inputs] times each weight (outputs, inputs), by kernel.

    On the processor each kernel runs both ways that it can be used: one product a core, each with rows of its own, and
    one on all cores.
    """
    rates: dict[str, dict[Shape, float]] = {}
    for shape in shapes:
        for name, kernel in _kernels(device, dtype).items():
            ways = {name: [0]} if device.type != "cpu" else {f"{name}, one a core": [1] * cores}
            if device.type == "cpu" and cores > 1:
                ways[f"{name}, all cores"] = [cores]
            for way, threads in ways.items():
                works = [_product(kernel, shape, rows, device, dtype, count) for count in threads]
                rates.setdefault(way, {})[shape] = rate(works, seconds)
    return rates


def ceiling(rates: Mapping[str, Mapping[Shape, float]], counts: Mapping[Shape, int]) -> float:
    """Operations a second of products in these numbers, each by its fastest kernel."""
    operations = {shape: 2.0 * shape[0] * shape[1] * count for shape, count in counts.items()}
    seconds = (operations[shape] / max(by_shape[shape] for by_shape in rates.values()) for shape in counts)
    return sum(operations.values()) / sum(seconds)


Kernel = Callable[[torch.Tensor, torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]


def _kernels(device: torch.device, dtype: torch.dtype) -> dict[str, Kernel]:
    def bare(weight: torch.Tensor, bias: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: x @ weight.T

    kernels: dict[str, Kernel] = {"linear": lambda w, b: PlainLinear(w, b, None), "product without bias": bare}
    if device.type == "cpu" and has_fused_kernels(dtype):
        kernels["laid-out linear"] = lambda w, b: FusedLinear(w, b, None)
    return kernels


def _product(kernel: Kernel, shape: Shape, rows: int, device: torch.device, dtype: torch.dtype, threads: int) -> Work:
    outputs, inputs = shape
    x = torch.randn(rows, inputs, device=device).to(dtype)
    multiply = kernel(
        torch.randn(outputs, inputs, device=device).to(dtype), torch.randn(outputs, device=device).to(dtype)
    )
    times = 20 if device.type == "cuda" else 1

    @torch.inference_mode()
    def work() -> float:
        if threads:
            torch.set_num_threads(threads)
        for _ in range(times):
            multiply(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return 2.0 * rows * outputs * inputs * times

    return work
