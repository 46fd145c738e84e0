"""Int8 for a checkpoint: calibrated on real reviews, and refused where on others it does not keep the labels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import torch

from schemas.datafiles import DataFileError, Row, read_rows
from schemas.recipe import render, tokenize
from schemas.store import Checkpoint, CheckpointError
from worker.engine.attention import Batch, Model
from worker.engine.bert import Weights
from worker.engine.device import translated_faults
from worker.engine.int8 import quantized
from worker.engine.packing import Packed, pack, split
from worker.engine.spec import BertSpec
from worker.engine.tokenizer import load_tokenizer

REVIEWS = 2400
EVERY = 6
"""One in six reviews calibrates, the others show what became of the labels: fewer are too few to tell 99.5 %."""
AGREES = 0.995
TOKENS = 2048


def int8_model(
    checkpoint: Checkpoint, spec: BertSpec, weights: Weights, dtype: torch.dtype, path: str,
    progress: Callable[[str], None],
) -> Model:  # fmt: skip
    """The model with its wide products in int8, the others in `dtype`. CheckpointError where that gives fewer than
    99.5 % of float32's labels for the reviews of the file, or where it has too few; OutOfMemory."""
    progress(f"int8: calibrating on {path}")
    reviews = _reviews(checkpoint, spec, path)
    with translated_faults(), torch.inference_mode():
        model, reference = quantized(spec, weights, dtype, _batches(reviews[::EVERY]))
        others = _batches([review for index, review in enumerate(reviews) if index % EVERY])
        same = torch.cat([model(batch).argmax(1) == reference(batch).argmax(1) for batch in map(Batch.of, others)])
    agreement = same.float().mean().item()
    kept = f"int8 gives float32's label for {agreement:.2%} of {len(same):,} reviews of {path}"
    if agreement < AGREES:
        raise CheckpointError(f"{checkpoint.ref}: {kept}, {AGREES:.1%} are required; engine.dtype=auto keeps them")
    progress(kept)
    return model


def _reviews(checkpoint: Checkpoint, spec: BertSpec, path: str) -> list[list[int]]:
    """Token ids of reviews from all over the file, the same every time, in random order."""
    chance, chosen = random.Random(0), list[str]()
    try:
        for count, text in enumerate(_texts(checkpoint, path), 1):
            if count <= REVIEWS:
                chosen.append(text)
            elif (place := chance.randrange(count)) < REVIEWS:
                chosen[place] = text
    except DataFileError as error:
        raise CheckpointError(f"engine.calibration: {error}") from None
    chance.shuffle(chosen)
    encode = load_tokenizer(checkpoint).encode_batch_fast
    reviews = [tokens.ids for tokens in tokenize(encode, checkpoint.manifest.recipe, chosen)]
    reviews = [ids for ids in reviews if ids and max(ids) < spec.vocabulary]
    if len(reviews) < REVIEWS:
        problem = f"{len(reviews):,} reviews that can be read in a column named text, {REVIEWS:,} are needed"
        raise CheckpointError(f"engine.calibration: {path}: {problem}")
    return reviews


def _texts(checkpoint: Checkpoint, path: str) -> Iterator[str]:
    for row in read_rows(path):
        if isinstance(row, Row) and isinstance(text := row.values.get("text"), str) and text.strip():
            rendered = render(checkpoint.manifest.recipe, row.values)
            if rendered == rendered.encode(errors="ignore").decode():  # half a surrogate pair is no text
                yield rendered


def _batches(reviews: Sequence[list[int]]) -> list[Packed]:
    return [pack(reviews[part]) for part in split(list(map(len, reviews)), TOKENS)]
