"""One batch through the model, whatever happens: memory that runs out, a record that breaks it, a device that breaks.

Knows the engine only by its interface; nothing of topics, threads or torch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from schemas.dead_letter import RejectReason
from schemas.labeled import ModelInfo
from worker.faults import DeviceFault, OutOfMemory
from worker.metrics import BISECTIONS, OUT_OF_MEMORY, TOKEN_BUDGET, Metrics
from worker.work import Rejection, Work

STAGE = "infer"


class Engine(Protocol):
    """The packed classifier, as far as this stage needs it."""

    labels: list[str]
    token_budget: int

    def classify(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        """Probabilities [sequences, labels]; what is over the budget runs as several batches."""
        ...

    def self_test(self) -> bool:
        """Whether the device still answers as at the start; OutOfMemory where it has no room to."""
        ...

    def shrink(self) -> bool: ...


class InferStage:
    """Fills in the scores of whatever was not rejected, and which model stood by."""

    def __init__(
        self, engine: Engine, model: ModelInfo, metrics: Metrics, clock: Callable[[], float] = time.time
    ) -> None:
        self.model = model
        self._engine = engine
        self._metrics = metrics
        self._clock = clock

    @property
    def token_budget(self) -> int:
        """Most tokens that one batch may have now."""
        return self._engine.token_budget

    def infer(self, batch: Sequence[Work]) -> None:
        """Raises DeviceFault where the device, not a record, is at fault."""
        for work in batch:
            work.model = self.model
        self._classify([work for work in batch if work.tokens is not None])

    def _classify(self, works: Sequence[Work]) -> None:
        if not works:
            return
        try:
            probabilities = self._engine.classify([work.tokens or [] for work in works])
        except OutOfMemory as error:
            self._shrink(error)
            self._classify(works)  # the engine cuts it to the new budget
        except DeviceFault:
            raise
        except Exception as error:  # whatever a record can do to a model; told apart from the device's faults below
            if len(works) > 1:
                self._metrics.add(BISECTIONS, 1)
                middle = len(works) // 2
                self._classify(works[:middle])
                self._classify(works[middle:])
            else:
                self._reject(works[0], error)
        else:
            self._fill(works, probabilities)

    def _shrink(self, error: OutOfMemory) -> None:
        self._metrics.add(OUT_OF_MEMORY, 1)
        if not self._engine.shrink():
            raise DeviceFault("out of memory at the smallest budget") from error
        self._metrics.set(TOKEN_BUDGET, self._engine.token_budget)

    def _reject(self, work: Work, error: Exception) -> None:
        try:
            healthy = self._engine.self_test()
        except OutOfMemory as full:
            self._shrink(full)
            return self._reject(work, error)
        if not healthy:
            raise DeviceFault(f"the model fails on texts it has answered before ({type(error).__name__})") from None
        # The exception's text might quote its input; its type never does.
        work.rejection = Rejection(RejectReason.MODEL_FAILURE, STAGE, type(error).__name__)

    def _fill(self, works: Sequence[Work], probabilities: npt.NDArray[np.float32]) -> None:
        now = self._clock()
        for work, row in zip(works, probabilities.tolist(), strict=True):
            if all(map(math.isfinite, row)):
                work.scores, work.classified_at = dict(zip(self._engine.labels, row, strict=True)), now
            elif len(works) > 1:
                self._classify([work])  # it may be its company's fault: attention over tiles lets a NaN through
            else:
                self._reject(work, FloatingPointError())
