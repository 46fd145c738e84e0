"""The simulated model for tests, which can also be made to fail."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from worker.engine.simulated import SimulatedEngine

POISON = 666
DEADLINE = 10.0


class FakeEncoding:
    def __init__(self, text: str) -> None:
        words = [zlib.crc32(word.encode()) % 50_000 for word in text.split()]
        self.ids = [POISON if "poison" in text else 1, *words[:148], 2]
        self.overflowing = words[148:]


def encode_batch(texts: list[str]) -> list[FakeEncoding]:
    """Stands in for the `encode_batch` of a tokenizer; a text with the word poison breaks the fake model."""
    return [FakeEncoding(text) for text in texts]


class FakeEngine(SimulatedEngine):
    """Fails on poison; with `healthy` False, on whatever it is given."""

    def __init__(self, token_budget: int = 1000, tokens_per_second: float = 1e7) -> None:
        super().__init__(["negative", "positive"], f"simulated:{tokens_per_second}", token_budget)
        self.healthy = True
        self.batches: list[int] = []

    def classify(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        self.batches.append(len(sequences))
        if not self.healthy or any(tokens[0] == POISON for tokens in sequences):
            raise RuntimeError("the fake model failed")
        return super().classify(sequences)

    def self_test(self) -> bool:
        return self.healthy


class MeetingEngine(FakeEngine):
    """Answers its first batch once all others have one too."""

    def __init__(self, all_busy: threading.Barrier) -> None:
        super().__init__(token_budget=50)
        self._all_busy = all_busy

    def classify(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        if not self.batches:
            self._all_busy.wait(DEADLINE)
        return super().classify(sequences)
