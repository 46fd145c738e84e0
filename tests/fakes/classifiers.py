"""Small random classifiers of every architecture, their stock padded answers, and a varlen attention by definition."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.manifest import CheckpointManifest
from schemas.recipe import TextRecipe
from schemas.store import Checkpoint, digest
from worker.engine import Engine, load_engines
from worker.settings import EngineSettings

LONGEST = 40
LABELS = ["negative", "positive"]
NAMED_OTHERWISE: dict[str, dict[str, int]] = {
    "Electra": {"embedding_size": 32},
    "DistilBert": {"dim": 64, "n_layers": 3, "n_heads": 4, "hidden_dim": 96},
    "Albert": {"embedding_size": 32},
    "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
}
"""Sizes that an architecture calls by names of its own."""


@torch.no_grad()
def make_checkpoint(directory: Path, name: str = "Bert", **changes: Any) -> Checkpoint:
    """A random classifier of an architecture, small but with every part, and with outputs that differ."""
    import transformers

    torch.manual_seed(0)
    options = {
        "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 300,
        "max_position_embeddings": 64, "initializer_range": 0.3,
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")(**{**options, **NAMED_OTHERWISE.get(name, {}), **changes})
    model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
    for parameter in model.parameters():  # the biases and norms of a fresh model are zeros and ones
        parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(directory, safe_serialization=True)
    return seal(directory)


def seal(directory: Path) -> Checkpoint:
    files = {path.name: digest(path) for path in directory.iterdir() if path.name != "manifest.json"}
    manifest = CheckpointManifest.model_validate(
        {
            "name": "tiny", "version": "v0001", "created_at": "2026-01-01T00:00:00Z", "labels": LABELS,
            "recipe": TextRecipe(max_length=LONGEST), "base_model": "random", "training": {}, "code_version": "test",
            "library_versions": {}, "files": files,
        }
    )  # fmt: skip
    return Checkpoint(directory, manifest)


def load_engine(checkpoint: Checkpoint, settings: EngineSettings, **options: Any) -> Engine:
    """The first of the first device's engines."""
    return load_engines(checkpoint, settings, **options)[0]


@cache
def stock(directory: Path) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()


@torch.no_grad()
def reference(directory: Path, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    """The stock model in float32, padded."""
    model = stock(directory)
    width = max(map(len, sequences))
    ids = torch.tensor([[*sequence, *[0] * (width - len(sequence))] for sequence in sequences])
    mask = torch.tensor([[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in sequences])
    return model(input_ids=ids, attention_mask=mask).logits.softmax(-1).numpy()


def reviews(lengths: Sequence[int], seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(10, 300, length).tolist() for length in lengths]  # past the special tokens


def plain_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, q_offsets: torch.Tensor, k_offsets: torch.Tensor, *longest: int
) -> torch.Tensor:
    """torch.nn.attention.varlen by its definition; rows of no sequence stay as they were, which may be anything."""
    context = torch.full_like(q, torch.nan)
    pairs = [offsets.unfold(0, 2, 1).tolist() for offsets in (q_offsets, k_offsets)]
    for (q_from, q_to), (k_from, k_to) in zip(*pairs, strict=True):
        if q_to > q_from and k_to > k_from:
            queries, keys, values = q[q_from:q_to], k[k_from:k_to], v[k_from:k_to]
            scores = torch.einsum("qhd,khd->hqk", queries, keys) * q.shape[2] ** -0.5
            context[q_from:q_to] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)
    return context
