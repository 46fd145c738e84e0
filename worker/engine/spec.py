"""Which models the packed forward knows, read from `config.json`. Pure; knows no weights, no torch, no checkpoints."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Activation = Literal["gelu", "gelu_tanh", "relu"]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
_SIZES = {
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "hidden_size",
    "inner": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "epsilon": "layer_norm_eps",
}


@dataclass(frozen=True, slots=True)
class BertSpec:
    """What config.json says of a BERT classifier. The defaults are Hugging Face's: BERT base into two labels."""

    layers: int = 12
    heads: int = 12
    hidden: int = 768
    inner: int = 3072
    vocabulary: int = 30522
    positions: int = 512
    types: int = 2
    activation: Activation = "gelu"
    epsilon: float = 1e-12
    labels: int = 2


def bert_spec(config: Mapping[str, Any]) -> BertSpec | None:
    """What the packed forward needs; None where anything is not stock BERT with a sequence classification head.

    ValueError for sizes that no model has.
    """
    activation = ACTIVATIONS.get(config.get("hidden_act", "gelu"))
    known = (
        config.get("model_type") == "bert"
        and config.get("architectures") == ["BertForSequenceClassification"]
        and config.get("position_embedding_type", "absolute") == "absolute"
        and not config.get("is_decoder", False)
        and not config.get("add_cross_attention", False)
        and not config.get("pruned_heads")
    )
    if not known or activation is None:
        return None
    sizes = {name: config[key] for name, key in _SIZES.items() if key in config}
    for name, size in sizes.items():
        if type(size) not in ((int,) if name != "epsilon" else (int, float)) or not 0 < size < math.inf:
            raise ValueError(f"{_SIZES[name]} is {size!r}")
    spec = BertSpec(activation=activation, labels=_outputs(config), **sizes)
    if spec.hidden % spec.heads:
        raise ValueError(f"{spec.heads} heads cannot share a hidden size of {spec.hidden}")
    return spec


def shapes(spec: BertSpec) -> dict[str, tuple[int, ...]]:
    """Of all weights, by Hugging Face's names."""
    h = spec.hidden
    norms, dense = ["bert.embeddings.LayerNorm"], {"bert.pooler.dense": (h, h), "classifier": (spec.labels, h)}
    for layer in (f"bert.encoder.layer.{index}" for index in range(spec.layers)):
        norms += [f"{layer}.attention.output.LayerNorm", f"{layer}.output.LayerNorm"]
        dense |= {f"{layer}.attention.self.{part}": (h, h) for part in ("query", "key", "value")}
        dense |= {f"{layer}.attention.output.dense": (h, h)}
        dense |= {f"{layer}.intermediate.dense": (spec.inner, h), f"{layer}.output.dense": (h, spec.inner)}
    rows = {"word": spec.vocabulary, "position": spec.positions, "token_type": spec.types}
    found: dict[str, tuple[int, ...]] = {f"bert.embeddings.{name}_embeddings.weight": (rows[name], h) for name in rows}
    found |= {f"{name}.weight": shape for name, shape in dense.items()}
    found |= {f"{name}.bias": shape[:1] for name, shape in dense.items()}
    return found | {f"{name}.{part}": (h,) for name in norms for part in ("weight", "bias")}


def products(spec: BertSpec) -> Counter[tuple[int, int]]:
    """The products that the packed forward computes over all tokens: (outputs, inputs) of a weight → how many of it.

    A token costs 2 * outputs * inputs operations in each. What the last layer does for first tokens only is left out.
    """
    full = {(3 * spec.hidden, spec.hidden): 1, (spec.hidden, spec.hidden): 1}
    full |= {(spec.inner, spec.hidden): 1, (spec.hidden, spec.inner): 1}
    counts = Counter({shape: times * (spec.layers - 1) for shape, times in full.items()})
    counts[2 * spec.hidden, spec.hidden] += 1
    return counts


def head_problem(config: Mapping[str, Any], labels: int) -> str | None:
    """Why the model is no classifier of one label a review into so many labels; None where it is."""
    outputs = _outputs(config)
    if outputs != labels:
        return f"a model of {outputs} outputs, but the manifest names {labels} labels"
    if config.get("problem_type") not in (None, "single_label_classification"):
        return f"problem type {config['problem_type']!r}; only one label a review is served"
    return None


def _outputs(config: Mapping[str, Any]) -> int:
    return len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2)
