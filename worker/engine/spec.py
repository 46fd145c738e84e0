"""Which models the packed forward knows, read from `config.json`. Pure; knows no weights and no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from schemas.store import CheckpointError

Activation = Literal["gelu", "gelu_tanh", "relu"]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class BertSpec:
    """Everything about a BERT classifier that its weights do not say."""

    layers: int
    heads: int
    hidden: int
    vocabulary: int
    max_positions: int
    activation: Activation
    epsilon: float


def read_config(directory: Path) -> dict[str, Any]:
    """config.json; CheckpointError where it is no JSON object."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return config


def check_head(config: dict[str, Any], labels: int, longest: int, path: Path) -> None:
    """CheckpointError where the model is not a classifier into exactly these labels or reads fewer tokens."""
    named = len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
    if named != labels:
        raise CheckpointError(f"{path}: a model of {named} outputs, but the manifest names {labels} labels")
    if config.get("problem_type") not in (None, "single_label_classification"):
        raise CheckpointError(f"{path}: problem type {config['problem_type']!r}; only one label a review is served")
    if longest > config.get("max_position_embeddings", longest):
        raise CheckpointError(
            f"{path}: reads {config['max_position_embeddings']} tokens at most, the recipe asks for {longest}"
        )


def bert_spec(config: dict[str, Any]) -> BertSpec | None:
    """What the packed forward needs; None where anything is not stock BERT with a sequence classification head."""
    known = (
        config.get("model_type") == "bert"
        and config.get("architectures") == ["BertForSequenceClassification"]
        and config.get("hidden_act", "gelu") in ACTIVATIONS
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
        and not config.get("add_cross_attention", False)
        and not config.get("pruned_heads")
    )
    if not known:
        return None
    return BertSpec(
        layers=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 12),
        hidden=config.get("hidden_size", 768),
        vocabulary=config.get("vocab_size", 30522),
        max_positions=config.get("max_position_embeddings", 512),
        activation=ACTIVATIONS[config.get("hidden_act", "gelu")],
        epsilon=config.get("layer_norm_eps", 1e-12),
    )
