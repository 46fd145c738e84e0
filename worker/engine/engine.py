"""One device and its model: budget, warm-up, self-test. Knows neither torch nor which model it is.

What computes is a `Forward`; everything decided around it is here, and testable without one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from worker.engine.budget import FIRST, MOST, best_budget
from worker.engine.packing import Packed, pack, split
from worker.faults import DeviceFault, OutOfMemory

Probabilities = npt.NDArray[np.float32]
MEASURED_SECONDS = 0.5
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 1e-2, "int8": 5e-2}
"""By how much a probability may differ between runs of one text in different company, by arithmetic."""


class Forward(Protocol):
    """A model on a device. Engines that share one may call it at once from several threads."""

    device: str
    dtype: str
    vocabulary: int
    most_tokens: int
    """What the device's memory allows in one batch."""
    measured: tuple[int, float] | None
    """Budget and tokens a second, once an engine has measured them for all that share this model."""

    def __call__(self, packed: Packed) -> Probabilities:
        """Probabilities in the row's order. OutOfMemory or DeviceFault where the device says so."""
        ...

    def sharers(self, tokens: int) -> int:
        """How many engines share the speed that a batch of so many tokens has when it runs alone."""
        ...

    def warm_up(self) -> None:
        """Whatever must be made ready before reviews come."""
        ...

    def close(self) -> None: ...


class Engine:
    """Classifies ragged sequences of token ids. One thread at a time calls an engine."""

    def __init__(
        self,
        forward: Forward,
        labels: Sequence[str],
        longest: int,
        token_budget: int | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ) -> None:
        """`longest` is the most tokens of one sequence; without `token_budget`, `warm_up` finds the best."""
        self.labels = list(labels)
        self.longest = longest
        self.device = forward.device
        self.dtype = forward.dtype
        self.tokens_per_second = 0.0
        self.token_budget = max(min(token_budget or FIRST, forward.most_tokens), longest)
        self._fixed = token_budget is not None
        self._forward = forward
        self._progress = progress
        self._texts = made_up_texts(forward.vocabulary, longest)
        self._answers: Probabilities | None = None
        if token_budget is not None and self.token_budget < token_budget:
            progress(f"{self.device}: {token_budget:,} tokens do not fit its memory, {self.token_budget:,} do")

    def classify(self, sequences: Sequence[Sequence[int]]) -> Probabilities:
        """Probabilities [sequences, labels] in the order given; each row sums to 1.

        More tokens than the budget run as several batches. ValueError for a sequence that the model cannot read,
        OutOfMemory and DeviceFault (worker.faults) for what the device cannot do.
        """
        lengths = [len(sequence) for sequence in sequences]
        if sequences and (min(lengths) < 1 or max(lengths) > self.longest):
            raise ValueError(f"a sequence must have 1 to {self.longest} tokens")
        result: Probabilities = np.empty((len(sequences), len(self.labels)), np.float32)
        for part in split(lengths, self.token_budget):
            packed = pack(sequences[part])
            # Checked here because on a GPU such an id would be the end of the device, not of the record.
            if packed.ids.max() >= self._forward.vocabulary or packed.ids.min() < 0:
                raise ValueError(f"a token id is not in the vocabulary of {self._forward.vocabulary}")
            result[part][packed.order] = self._forward(packed)
        return result

    def warm_up(self) -> None:
        """Finds the budget where none was given, runs it full, measures its rate and records what texts give.

        OutOfMemory where not even one longest review fits; DeviceFault where the answers are no numbers.
        """
        if self._forward.measured is None:
            self._forward.warm_up()
            if not self._fixed:
                self.token_budget = best_budget(self._seconds, self.longest, min(MOST, self._forward.most_tokens))
            while (seconds := self._seconds(self.token_budget)) == math.inf:
                if not self.shrink():
                    raise OutOfMemory(f"{self.device}: a batch of one longest review does not fit its memory")
                self._progress(f"{self.device}: out of memory, {self.token_budget:,} tokens a batch from now on")
            measured = sum(map(len, fill(self._texts, self.token_budget)))
            rate = self.token_budget / seconds / self._forward.sharers(measured)
            self._forward.measured = self.token_budget, rate
        self.token_budget, self.tokens_per_second = self._forward.measured
        self._answers = self.classify(self._texts)
        if not np.isfinite(self._answers).all():
            raise DeviceFault(f"{self.device}: the model gives no numbers in {self.dtype}")

    def self_test(self) -> bool:
        """Whether the device still gives what it gave at warm-up for the same texts; OutOfMemory."""
        if self._answers is None:
            return False
        try:
            now = self.classify(self._texts)
        except OutOfMemory:
            raise
        except Exception:  # whatever the device says, it is not the answer
            return False
        return bool(np.abs(now - self._answers).max() <= TOLERANCE[self.dtype])

    def shrink(self) -> bool:
        """Halves the budget; False, and unchanged, where one longest review is all it holds."""
        if self.token_budget <= self.longest:
            return False
        self.token_budget = max(self.token_budget // 2, self.longest)
        return True

    def close(self) -> None:
        """Gives the device's memory back; no engine of that device answers any more."""
        self._forward.close()

    def _seconds(self, budget: int) -> float:
        """How long a batch of so many tokens takes, once it has run before: the best of what half a second holds.

        Infinity where it does not fit the memory.
        """
        self.token_budget = budget
        full = fill(self._texts, budget)
        best, left = math.inf, MEASURED_SECONDS
        try:
            self.classify(full)
            while left > 0:
                begin = time.perf_counter()
                self.classify(full)
                took = time.perf_counter() - begin
                best, left = min(best, took), left - took
        except OutOfMemory:
            return math.inf
        return best * budget / sum(map(len, full))


def made_up_texts(vocabulary: int, longest: int) -> list[list[int]]:
    """Token ids of sixteen made-up reviews, among them the shortest and the longest; the same at every start."""
    random = np.random.default_rng(0)
    lengths = np.unique(np.linspace(1, longest, 16).astype(int))
    # From the upper half of the vocabulary: special tokens, which some models treat differently, are in the lower.
    return [random.integers(vocabulary // 2, vocabulary, length).tolist() for length in lengths]


def fill(texts: Sequence[list[int]], budget: int) -> list[list[int]]:
    """Texts over and over, as many as the budget holds; one at least."""
    chosen: list[list[int]] = []
    used = 0
    while True:
        text = texts[len(chosen) % len(texts)]
        if chosen and used + len(text) > budget:
            return chosen
        chosen.append(text)
        used += len(text)
