"""BERT with a sequence classification head over one packed row of tokens. Knows nothing of budgets or text.

Every token of the batch goes through the embeddings and products together, attention stays within each sequence. In
the last layer keys and values are computed for all tokens, everything else for first tokens only: the pooler reads
no others. Pooler, classifier and softmax are always float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from worker.engine.attention import attend, attend_first
from worker.engine.linear import prepare
from worker.engine.packing import Packed
from worker.engine.spec import BertSpec

Weights = Mapping[str, torch.Tensor]
Part = tuple[torch.Tensor, torch.Tensor]
ROWS_OF_FIRST_TOKENS = 64
_TOLERANCE = {torch.float32: 1e-4}


class Norm:
    """Layer norm, computed in float32 whatever the input's type."""

    def __init__(self, weights: Weights, name: str, epsilon: float) -> None:
        self._weight, self._bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        self._epsilon = epsilon

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self._weight, self._bias, self._epsilon)


class Layer:
    """One encoder layer; the last one answers for first tokens only."""

    def __init__(self, weights: Weights, name: str, spec: BertSpec, rows: int, last: bool) -> None:
        def weight(part: str) -> Part:
            return weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"]

        q, k, v = (weight(f"attention.self.{part}") for part in ("query", "key", "value"))
        self._heads = spec.heads
        if last:
            self._q = prepare(*q, rows=ROWS_OF_FIRST_TOKENS)
            self._kv = prepare(*_stacked(k, v), rows=rows)
            rows = ROWS_OF_FIRST_TOKENS
        else:
            self._qkv = prepare(*_stacked(q, k, v), rows=rows)
        self._out = prepare(*weight("attention.output.dense"), rows=rows)
        self._up = prepare(*weight("intermediate.dense"), spec.activation, rows=rows)
        self._down = prepare(*weight("output.dense"), rows=rows)
        self._attention_norm = Norm(weights, f"{name}.attention.output.LayerNorm", spec.epsilon)
        self._norm = Norm(weights, f"{name}.output.LayerNorm", spec.epsilon)

    def __call__(self, x: torch.Tensor, packed: Packed) -> torch.Tensor:
        return self._after_attention(attend(self._qkv(x), packed.groups, self._heads), x)

    def first_tokens(self, x: torch.Tensor, starts: torch.Tensor, packed: Packed) -> torch.Tensor:
        """[rows, hidden] → [sequences, hidden]."""
        first = x[starts]
        return self._after_attention(attend_first(self._q(first), self._kv(x), packed.groups, self._heads), first)

    def _after_attention(self, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = self._attention_norm(self._out(context, x))
        return self._norm(self._down(self._up(x), x))


class PackedBert:
    """The whole classifier on one device; a `Forward` of engine.py."""

    def __init__(self, spec: BertSpec, weights: Weights, device: torch.device, dtype: torch.dtype, rows: int) -> None:
        self.device = str(device)
        self.dtype = str(dtype).removeprefix("torch.")
        self.tolerance = _TOLERANCE.get(dtype, 2e-2)
        self.vocabulary = spec.vocabulary
        self.parameters = sum(tensor.numel() for tensor in weights.values())
        self._device = device
        placed = {name: _placed(name, tensor, device, dtype) for name, tensor in weights.items()}
        embeddings = "bert.embeddings"
        self._words = placed[f"{embeddings}.word_embeddings.weight"]
        # One text a review: its tokens are all of type 0, whose vector is added to every position once and for all.
        self._places = (
            placed[f"{embeddings}.position_embeddings.weight"] + placed[f"{embeddings}.token_type_embeddings.weight"][0]
        )
        self._norm = Norm(placed, f"{embeddings}.LayerNorm", spec.epsilon)
        self._layers = [
            Layer(placed, f"bert.encoder.layer.{i}", spec, rows, last=i == spec.layers - 1) for i in range(spec.layers)
        ]
        self._pooler = placed["bert.pooler.dense.weight"], placed["bert.pooler.dense.bias"]
        self._classifier = placed["classifier.weight"], placed["classifier.bias"]

    @torch.inference_mode()
    def __call__(self, packed: Packed) -> npt.NDArray[np.float32]:
        ids, positions, starts = (
            torch.from_numpy(array).to(self._device) for array in (packed.ids, packed.positions, packed.starts)
        )
        x = self._norm(F.embedding(ids, self._words).add_(F.embedding(positions, self._places)))
        for layer in self._layers[:-1]:
            x = layer(x, packed)
        first = self._layers[-1].first_tokens(x, starts, packed)
        pooled = F.linear(first.float(), *self._pooler).tanh_()
        probabilities: npt.NDArray[np.float32] = F.linear(pooled, *self._classifier).softmax(-1).cpu().numpy()
        return probabilities

    def close(self) -> None:
        self._layers.clear()


def _stacked(*parts: Part) -> Part:
    return torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])


def _placed(name: str, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    exact = "LayerNorm" in name or name.startswith(("bert.pooler", "classifier"))
    return tensor.to(device, torch.float32 if exact else dtype)
