"""How many tokens make the best batch. Pure: what measures and what limits come in as arguments."""

from __future__ import annotations

from collections.abc import Callable

FIRST = 512
MOST = 65_536
WORTH = 1.03
"""Doubling the batch must win 3 %: a larger one delays every review in it."""
LONGEST_BATCH = 0.5
"""Seconds a batch should take at most: a drain or a rebalance waits for it."""


def best_budget(seconds: Callable[[int], float], least: int, most: int) -> int:
    """The smallest budget past which batches of twice the tokens are hardly faster a token.

    `seconds` runs one batch of so many tokens and says how long it took. The result is within `least` and `most`.
    """
    budget = max(least, min(FIRST, most))
    took = seconds(budget)
    while budget * 2 <= most and took * 2 <= LONGEST_BATCH:
        longer = seconds(budget * 2)
        if took * 2 < longer * WORTH:
            break
        budget, took = budget * 2, longer
    return budget


def tokens_that_fit(bytes_left: int, model_bytes: int, bytes_per_token: int, engines: int, later: int = 1) -> int:
    """Most tokens a batch may have, leaving room for so many `later` models and their warm-up beside this one's."""
    return max(0, bytes_left - later * model_bytes) // ((1 + later) * engines * bytes_per_token)
