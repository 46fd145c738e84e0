"""Review text to token ids, in batches, on the Rust tokenizer's own threads. Knows nothing of models or topics."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.recipe import EncodeBatch, TextRecipe, tokenize
from worker.work import Work


class TokenizeStage:
    """Fills in the tokens of whatever was not rejected."""

    def __init__(self, encode_batch: EncodeBatch, recipe: TextRecipe) -> None:
        self._encode_batch = encode_batch
        self._recipe = recipe

    def tokenize(self, batch: Sequence[Work]) -> None:
        works = [work for work in batch if work.rejection is None and work.tombstone is None]
        if not works:
            return
        results = tokenize(self._encode_batch, self._recipe, [work.text for work in works])
        for work, (ids, truncated) in zip(works, results, strict=True):
            work.tokens, work.truncated, work.text = ids, truncated, ""
