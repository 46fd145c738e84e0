"""The engine's GPU side. With a GPU: the real thing. Without one: its own steps, with the device's calls replaced.

The second kind runs everywhere and shows that batches are laid out, copied, captured and replayed in the right order;
that the device's kernels do what is asked of them, only the first kind can show (and tests/benchmarks/gpu.py).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes.classifiers import plain_varlen, reviews
from worker.engine import attention, cuda
from worker.engine.attention import Batch
from worker.engine.bert import PackedBert, random_weights
from worker.engine.cpu import CpuForward
from worker.engine.packing import pack
from worker.engine.processor import Cores
from worker.engine.spec import BertSpec

SPEC = BertSpec(layers=2, heads=2, hidden=128, inner=256, vocabulary=300, positions=64)
BATCHES = [[1], [40, 3], [8] * 60, [1] * 7, [40] * 51, [5, 5, 5], [2] * 255, [40]]


def weights() -> dict[str, torch.Tensor]:
    return {name: tensor * 5 if tensor.ndim == 2 else tensor for name, tensor in random_weights(SPEC).items()}


def expected(lengths: list[int]) -> np.ndarray:
    model = PackedBert(SPEC, weights(), torch.device("cpu"), torch.float32)
    return CpuForward(model, Cores(1, 1), "float32", 300, 10_000)(pack(reviews(lengths)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu_graphs_and_eager_batches_in_turn(dtype: torch.dtype) -> None:
    device = torch.device("cuda", 0)
    forward = cuda.CudaForward(PackedBert(SPEC, weights(), device, dtype), device, dtype, 300, 10_000, 64)
    forward.warm_up()
    for lengths in BATCHES:
        difference = np.abs(forward(pack(reviews(lengths))) - expected(lengths)).max()
        assert difference < (1e-4 if dtype == torch.float32 else 0.05)
    forward.close()


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> cuda.CudaForward:
    monkeypatch.setattr(cuda, "torch", without_a_gpu())
    monkeypatch.setattr(attention, "_varlen", plain_varlen)
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    model = PackedBert(SPEC, weights(), cpu, torch.float32)
    forward = cuda.CudaForward(model, cpu, torch.float32, 300, 10_000, 64)
    forward._varlen = forward._capturing = True  # as in half precision, but in numbers that can be compared
    return forward


def test_graphs_and_eager_batches_in_turn(forward: cuda.CudaForward) -> None:
    replays: list[int] = []
    forward.warm_up()
    assert [graph.slots.rows for graph in forward._graphs] == list(cuda.GRAPH_ROWS)
    for graph in forward._graphs:
        recompute(forward, graph, replays)
    for lengths in BATCHES:
        assert np.abs(forward(pack(reviews(lengths))) - expected(lengths)).max() < 1e-5, lengths
    # 40 * 51 tokens fit the largest graph, 255 sequences its slots only; nothing of these runs eagerly.
    assert replays == [64, 64, 512, 64, 2048, 64, 2048, 64]
    del forward._graphs[:]
    for lengths in BATCHES:
        assert np.abs(forward(pack(reviews(lengths))) - expected(lengths)).max() < 1e-5, lengths


def recompute(forward: cuda.CudaForward, graph: cuda.Graph, replays: list[int]) -> None:
    """Gives a graph that recorded nothing what a real one would do at replay: the same kernels on the same memory."""
    batch = Batch.of_slots(graph.slots, graph.numbers, graph.slots.rows)

    def replay() -> None:
        replays.append(graph.slots.rows)
        model: Callable[[Batch], torch.Tensor] | None = forward._model
        assert model is not None
        graph.probabilities.copy_(model(batch))

    graph.graph.replay = replay  # type: ignore[method-assign]


def without_a_gpu() -> Any:
    """torch, with what only a GPU can do replaced by nothing."""

    class Device:
        def __init__(self, *ignored: object, **options: object) -> None: ...
        def pool(self) -> None: ...
        def wait_stream(self, other: object) -> None: ...
        def record(self, stream: object) -> None: ...
        def synchronize(self) -> None: ...

    @contextmanager
    def graph(*ignored: object, **options: object) -> Iterator[None]:
        assert options["capture_error_mode"] == "thread_local"
        yield

    def empty(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        return torch.empty(*shape, **options)

    names = {"Stream": Device, "Event": Device, "CUDAGraph": Device, "graph": graph, "current_stream": Device}
    fake = SimpleNamespace(**names, stream=lambda stream: nullcontext(), device=lambda device: nullcontext())

    class Torch:
        cuda = fake

        def __getattr__(self, name: str) -> Any:
            return {"empty": empty}.get(name) or getattr(torch, name)

    return Torch()


def test_models_that_know_no_ranges_still_get_their_groups(forward: cuda.CudaForward) -> None:
    seen: list[Batch] = []

    def model(batch: Batch) -> torch.Tensor:
        seen.append(batch)
        return torch.zeros(len(batch.starts), 2)

    forward._model = model
    packed = pack(reviews([3, 3, 5]))
    forward(packed)
    assert seen[0].ranges is not None and list(seen[0].groups) == packed.groups
