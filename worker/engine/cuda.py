"""Runs a model on a GPU: staged copies, its own stream, CUDA graphs for small batches. Knows no model from another.

Two engines share one of these, each called by its own thread: while one waits for the device, the other packs its batch
and copies it over. All kernels go to one stream in the order they are launched, so that memory freed by a batch is the
next one's.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from worker.engine.attention import Batch, Model
from worker.engine.device import dtype_name, translated_faults
from worker.engine.packing import Packed, Slots, pack
from worker.faults import DeviceFault, OutOfMemory

GRAPH_ROWS = (64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
"""Batches that are launched as one graph: up to the last, launching the kernels takes longer than running them."""
ROWS_A_SEQUENCE = 8


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured forward: its input and output stay where they are."""

    slots: Slots
    numbers: torch.Tensor
    probabilities: torch.Tensor
    graph: torch.cuda.CUDAGraph


class CudaForward:
    """A `Forward` of engine.py."""

    def __init__(
        self,
        model: Model,
        device: torch.device,
        dtype: torch.dtype,
        vocabulary: int,
        most_tokens: int,
        longest: int,
        engines: int = 1,
        graphs: bool = True,
    ) -> None:
        """`longest`: the most tokens of a sequence. `graphs`: whether the model launches the same kernels for every
        batch of a shape."""
        self._engines = engines
        self.device = str(device)
        self.dtype = dtype_name(dtype)
        self.vocabulary = vocabulary
        self.most_tokens = most_tokens
        self.measured: tuple[int, float] | None = None
        self._longest = longest
        self._model: Model | None = model
        self._device = device
        self._varlen = dtype != torch.float32
        self._capturing = graphs and self._varlen
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))  # which prepared the weights
        # It would make a plan for every new shape in the middle of a stream; torch's varlen attention asks it first.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self._graphs: list[Graph] = []
        self._launching = threading.Lock()

    @torch.inference_mode()
    def __call__(self, packed: Packed) -> npt.NDArray[np.float32]:
        with translated_faults(), torch.cuda.device(self._device):
            graph = next((graph for graph in self._graphs if graph.slots.hold(packed)), None)
            slots = graph.slots if graph else Slots.exactly(packed)
            # From torch's cache of pinned memory, which hands a block out again only after the copies from it are done.
            numbers = torch.empty(slots.size, dtype=torch.int32, pin_memory=True)
            slots.fill(numbers.numpy(), packed)
            with self._launching:
                probabilities = self._replay(graph, numbers) if graph else self._run(slots, numbers, packed)
                with torch.cuda.stream(self._stream):
                    answer = torch.empty(probabilities.shape, dtype=torch.float32, pin_memory=True)
                    answer.copy_(probabilities, non_blocking=True)
                    done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                    done.record(self._stream)
            done.synchronize()
            return answer.numpy()[: len(packed.order)]

    def sharers(self, tokens: int) -> int:
        return self._engines

    def warm_up(self) -> None:
        """Captures the graphs, smallest first, so that the first that holds a batch is the one to take; as many as the
        memory has room for."""
        if not self._capturing or self._graphs:
            return
        with suppress(OutOfMemory), torch.inference_mode(), translated_faults(), torch.cuda.device(self._device):
            for rows in (rows for rows in GRAPH_ROWS if rows <= self.most_tokens):
                self._graphs.append(self._capture(Slots(rows, rows // ROWS_A_SEQUENCE)))

    def close(self) -> None:
        with self._launching, torch.cuda.device(self._device):
            self._stream.synchronize()
            self._graphs.clear()
            self._model = None
            torch.cuda.empty_cache()

    def _run(self, slots: Slots, numbers: torch.Tensor, packed: Packed) -> torch.Tensor:
        if self._model is None:
            raise DeviceFault("closed")
        with torch.cuda.stream(self._copies):
            here = numbers.to(self._device, non_blocking=True)
        self._stream.wait_stream(self._copies)
        here.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            return self._model(Batch.of_slots(slots, here, packed.longest, packed.groups, ranges=self._varlen))

    def _replay(self, graph: Graph, numbers: torch.Tensor) -> torch.Tensor:
        if self._model is None:  # since the graph was chosen
            raise DeviceFault("closed")
        with torch.cuda.stream(self._stream):
            graph.numbers.copy_(numbers, non_blocking=True)
            graph.graph.replay()
        return graph.probabilities

    def _capture(self, slots: Slots) -> Graph:
        assert self._model is not None, "closed"
        numbers = torch.empty(slots.size, dtype=torch.int32)
        slots.fill(numbers.numpy(), pack([[0] * ROWS_A_SEQUENCE]))
        with torch.cuda.stream(self._stream):
            numbers = numbers.to(self._device)
            batch = Batch.of_slots(slots, numbers, longest=min(slots.rows, self._longest))
            self._model(batch)  # libraries choose their kernels at first use, which a capture cannot hold
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        # One memory for all: they run one after the other, and what one answers is copied before the next begins.
        pool = self._graphs[0].graph.pool() if self._graphs else None
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            probabilities = self._model(batch)
        return Graph(slots, numbers, probabilities, graph)
