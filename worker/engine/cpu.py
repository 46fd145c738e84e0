"""Runs a model on the processor, each engine on its share of the cores. Knows no model from another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from worker.engine.attention import Batch, Model
from worker.engine.device import translated_faults
from worker.engine.packing import Packed
from worker.engine.processor import Cores
from worker.faults import DeviceFault


class CpuForward:
    """A `Forward` of engine.py, shared by all engines of the processor."""

    device = "cpu"

    def __init__(self, model: Model, cores: Cores, dtype: str, vocabulary: int, most_tokens: int) -> None:
        self.dtype = dtype
        self.vocabulary = vocabulary
        self.most_tokens = most_tokens
        self.measured: tuple[int, float] | None = None
        self._model: Model | None = model
        self._cores = cores

    @torch.inference_mode()
    def __call__(self, packed: Packed) -> npt.NDArray[np.float32]:
        if self._model is None:
            raise DeviceFault("closed")
        with self._cores.share(packed.tokens) as threads, translated_faults():
            torch.set_num_threads(threads)  # of this thread and those it will start; not of the other engines'
            probabilities: npt.NDArray[np.float32] = self._model(Batch.of(packed)).numpy()
        return probabilities

    def sharers(self, tokens: int) -> int:
        return self._cores.sharers(tokens)

    def warm_up(self) -> None:
        """Nothing: kernels are made at first use and kept."""

    def close(self) -> None:
        self._model = None
