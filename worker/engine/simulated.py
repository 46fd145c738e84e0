"""A model that takes the time of a real one and computes nothing: to measure what is around it, and for chaos tests.

`engine.device=simulated` runs at the rate of an H200 with BERT base (2.2 million tokens a second), `simulated:RATE` at
RATE tokens a second. Its answer is a checksum of the token ids, so that a result given to the wrong review is noticed.
"""

from __future__ import annotations

import math
import time
import zlib
from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

TOKENS_PER_SECOND = 2_200_000.0
TOKEN_BUDGET = 65_536
LAUNCH_SECONDS = 0.0005


def probability(tokens: Sequence[int]) -> float:
    """Probability of the last label: a checksum of the tokens, spread over 0 to 1."""
    return (zlib.crc32(array("q", tokens).tobytes()) % 10_001) / 10_000


class SimulatedEngine:
    """Has the interface of the engine, and the checkpoint's labels, two or more."""

    def __init__(self, labels: Sequence[str], device: str, token_budget: int | None) -> None:
        """ValueError where the device is not `simulated` or its rate no number above 0."""
        name, _, rate = device.partition(":")
        self.labels = list(labels)
        self.device = device
        self.dtype = "none"
        self.token_budget = token_budget or TOKEN_BUDGET
        try:
            self.tokens_per_second = float(rate or TOKENS_PER_SECOND)
        except ValueError:
            self.tokens_per_second = math.nan
        if name != "simulated" or not 0 < self.tokens_per_second < math.inf:
            raise ValueError(f"engine.device {device!r}: expected simulated:TOKENS_PER_SECOND")

    def warm_up(self) -> None:
        """Nothing to warm."""

    def classify(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        # Sleeping is what it is for: the time that a device would take.
        time.sleep(LAUNCH_SECONDS + sum(map(len, sequences)) / self.tokens_per_second)
        last = np.fromiter(map(probability, sequences), dtype=np.float32, count=len(sequences))
        rest = (1 - last) / (len(self.labels) - 1)
        return np.stack([rest] * (len(self.labels) - 1) + [last], axis=1)

    def self_test(self) -> bool:
        return True

    def shrink(self) -> bool:
        return False
