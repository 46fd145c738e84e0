"""A model that needs no torch: its answer is a function of the token ids alone, so a neighbour's answer is noticed."""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

POISON = 666


def probability(tokens: Sequence[int]) -> float:
    """Probability of `positive` that the fake model gives."""
    return (zlib.crc32(repr(list(tokens)).encode()) % 10_001) / 10_000


class FakeEncoding:
    def __init__(self, text: str) -> None:
        words = [zlib.crc32(word.encode()) % 50_000 for word in text.split()]
        self.ids = [POISON if "poison" in text else 1, *words[:148], 2]
        self.overflowing = words[148:]


def encode_batch(texts: list[str]) -> list[FakeEncoding]:
    """Stands in for the `encode_batch` of a tokenizer; a text with the word poison breaks the fake model."""
    return [FakeEncoding(text) for text in texts]


class FakeEngine:
    """Answers at `tokens_per_second`, no slower; with `healthy` False it fails on whatever it is given."""

    labels = ("negative", "positive")

    def __init__(self, token_budget: int = 1000, tokens_per_second: float = 1e7) -> None:
        self.token_budget = token_budget
        self.tokens_per_second = tokens_per_second
        self.healthy = True
        self.batches: list[int] = []

    def classify(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        self.batches.append(len(sequences))
        if not self.healthy or any(tokens[0] == POISON for tokens in sequences):
            raise RuntimeError("the fake model failed")
        time.sleep(sum(map(len, sequences)) / self.tokens_per_second)  # what it simulates is the passing of time
        positive = np.array([probability(tokens) for tokens in sequences], dtype=np.float32)
        return np.stack([1 - positive, positive], axis=1)

    def self_test(self) -> bool:
        return self.healthy

    def shrink(self) -> bool:
        return False
