"""Int8 for a checkpoint: calibrated on real reviews, and refused where on others it does not keep the labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import torch

from schemas.datafiles import DataFileError, Row, read_rows
from schemas.recipe import render, tokenize
from schemas.store import Checkpoint, CheckpointError
from worker.engine.attention import Batch, Model
from worker.engine.bert import Weights
from worker.engine.int8 import quantized
from worker.engine.packing import Packed, pack
from worker.engine.spec import BertSpec
from worker.engine.tokenizer import load_tokenizer

REVIEWS = 1200
EVERY = 6
"""One in six reviews calibrates, the others show what became of the labels."""
AGREES = 0.995
A_BATCH = 20


def int8_model(
    checkpoint: Checkpoint, spec: BertSpec, weights: Weights, dtype: torch.dtype, path: str,
    progress: Callable[[str], None],
) -> Model:  # fmt: skip
    """The model with its wide products in int8, the others in `dtype`. CheckpointError where that gives fewer than
    99.5 % of float32's labels for the reviews of the file, or where it has too few."""
    reviews = _reviews(checkpoint, path)
    progress(f"int8: calibrating on {path}")
    model, reference = quantized(spec, weights, dtype, _batches(reviews[::EVERY]))
    others = _batches([review for index, review in enumerate(reviews) if index % EVERY])
    with torch.inference_mode():
        same = torch.cat([model(batch).argmax(1) == reference(batch).argmax(1) for batch in map(Batch.of, others)])
    agreement = same.float().mean().item()
    kept = f"int8 gives float32's label for {agreement:.2%} of {len(same):,} reviews of {path}"
    if agreement < AGREES:
        raise CheckpointError(f"{checkpoint.ref}: {kept}, {AGREES:.1%} are required; engine.dtype=auto keeps them")
    progress(kept)
    return model


def _reviews(checkpoint: Checkpoint, path: str) -> list[list[int]]:
    recipe = checkpoint.manifest.recipe
    try:
        rows = (row.values for row in read_rows(path) if isinstance(row, Row))
        texts = [render(recipe, row) for row in islice((row for row in rows if _has_text(row)), REVIEWS)]
    except DataFileError as error:
        raise CheckpointError(f"engine.calibration: {error}") from None
    if len(texts) < REVIEWS:
        raise CheckpointError(f"engine.calibration: {path}: {len(texts):,} reviews with text of {REVIEWS:,} needed")
    return [tokens.ids for tokens in tokenize(load_tokenizer(checkpoint).encode_batch_fast, recipe, texts)]


def _has_text(row: dict[str, object]) -> bool:
    return isinstance(text := row.get("text"), str) and bool(text.strip())


def _batches(reviews: Sequence[list[int]]) -> list[Packed]:
    return [pack(reviews[first : first + A_BATCH]) for first in range(0, len(reviews), A_BATCH)]
