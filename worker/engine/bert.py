"""BERT with a sequence classification head over one packed row of tokens. Knows nothing of budgets, devices or text.

Every token of the batch goes through the embeddings and products together, attention stays within each sequence. In
the last layer keys and values are computed for all tokens, everything else for first tokens only: the pooler reads
no others. Pooler, classifier and softmax are always float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from worker.engine.attention import Batch, attend, attend_first
from worker.engine.device import gpu_kernels
from worker.engine.linear import Linear, WeightAndBias, WideProducts, prepare
from worker.engine.spec import Activation, BertSpec, shapes

Weights = Mapping[str, torch.Tensor]
MakeWide = Callable[[WeightAndBias, WeightAndBias, Activation], Linear]
"""From weight and bias of a layer's product up and of the one down to what computes both."""


class PackedBert:
    """The whole classifier: a packed batch → probabilities [sequences, labels], float32."""

    def __init__(
        self, spec: BertSpec, weights: Weights, device: torch.device, dtype: torch.dtype, wide: MakeWide = WideProducts
    ) -> None:
        """ValueError where the weights are not those of the spec. `wide` is called once a layer, in their order."""
        _check(spec, weights)
        weights = {name: _placed(name, tensor, device, dtype) for name, tensor in weights.items()}
        embeddings = "bert.embeddings"
        self._words = weights[f"{embeddings}.word_embeddings.weight"]
        # One text a review: all tokens are of type 0, so its vector is added to every position once and for all.
        places = weights[f"{embeddings}.position_embeddings.weight"]
        self._places = places + weights[f"{embeddings}.token_type_embeddings.weight"][0]
        self._norm = Norm(weights, f"{embeddings}.LayerNorm", spec.epsilon)
        names = [f"bert.encoder.layer.{index}" for index in range(spec.layers)]
        self._layers = [Layer(weights, name, spec, wide) for name in names[:-1]]
        self._last = LastLayer(weights, names[-1], spec, wide)
        self._pooler = _part(weights, "bert.pooler.dense")
        self._classifier = _part(weights, "classifier")

    def __call__(self, batch: Batch) -> torch.Tensor:
        x = self._norm(F.embedding(batch.ids, self._words), F.embedding(batch.positions, self._places))
        for layer in self._layers:
            x = layer(x, batch)
        first = self._last(x, batch)
        pooled = F.linear(first.float(), *self._pooler).tanh_()
        return F.linear(pooled, *self._classifier).softmax(-1)


class Norm:
    """Layer norm of x + residual, computed in float32 whatever their type; overwrites x."""

    def __init__(self, weights: Weights, name: str, epsilon: float) -> None:
        self._weight, self._bias = _part(weights, name)
        self._epsilon = epsilon
        self._kernels = gpu_kernels(self._weight.device)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        if self._kernels:
            normed: torch.Tensor = self._kernels.add_norm(x, residual, self._weight, self._bias, self._epsilon)
            return normed
        return self._norm(x.add_(residual))

    def of_product(self, product: Linear, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """The same of product(x). Whichever of the two can adds the residual on its way."""
        return self(product(x), residual) if self._kernels else self._norm(product(x, residual))

    def _norm(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], self._weight, self._bias, self._epsilon)


class Layer:
    """One encoder layer: x [rows, hidden] → [rows, hidden]."""

    def __init__(self, weights: Weights, name: str, spec: BertSpec, wide: MakeWide) -> None:
        self._heads = spec.heads
        self._qkv = _stacked(weights, *(f"{name}.attention.self.{part}" for part in ("query", "key", "value")))
        self._after_attention = AfterAttention(weights, name, spec, wide)

    def __call__(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        qkv = self._qkv(x).view(len(x), 3, self._heads, -1)
        return self._after_attention(attend(qkv, batch), x)


class LastLayer:
    """The last one answers for first tokens only: x [rows, hidden] → [sequences, hidden]."""

    def __init__(self, weights: Weights, name: str, spec: BertSpec, wide: MakeWide) -> None:
        self._heads = spec.heads
        self._q = _stacked(weights, f"{name}.attention.self.query")
        self._kv = _stacked(weights, f"{name}.attention.self.key", f"{name}.attention.self.value")
        self._after_attention = AfterAttention(weights, name, spec, wide)

    def __call__(self, x: torch.Tensor, batch: Batch) -> torch.Tensor:
        first = x.index_select(0, batch.starts)
        q = self._q(first).view(len(first), self._heads, -1)
        k, v = self._kv(x).view(len(x), 2, self._heads, -1).unbind(1)
        return self._after_attention(attend_first(q, k, v, batch), first)


class AfterAttention:
    """What follows attention in a layer: context [rows, heads, size] and the layer's input → [rows, hidden]."""

    def __init__(self, weights: Weights, name: str, spec: BertSpec, wide: MakeWide) -> None:
        self._out = _stacked(weights, f"{name}.attention.output.dense")
        self._norm = Norm(weights, f"{name}.attention.output.LayerNorm", spec.epsilon)
        up, down = (_part(weights, f"{name}.{part}.dense") for part in ("intermediate", "output"))
        self._wide = wide(up, down, spec.activation)
        self._last_norm = Norm(weights, f"{name}.output.LayerNorm", spec.epsilon)

    def __call__(self, context: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        x = self._norm.of_product(self._out, context.flatten(1), x)
        return self._last_norm.of_product(self._wide, x, x)


def random_weights(spec: BertSpec) -> dict[str, torch.Tensor]:
    """Weights for measuring speed, which does not depend on their values."""
    generator = torch.Generator().manual_seed(0)
    ones = {name: torch.ones(shape) for name, shape in shapes(spec).items() if name.endswith("LayerNorm.weight")}
    zeros = {name: torch.zeros(shape) for name, shape in shapes(spec).items() if name.endswith("bias")}
    matrices = {name: shape for name, shape in shapes(spec).items() if len(shape) == 2}
    return ones | zeros | {name: torch.randn(shape, generator=generator) * 0.02 for name, shape in matrices.items()}


def _check(spec: BertSpec, weights: Weights) -> None:
    expected = shapes(spec)
    for name, shape in expected.items():
        if name not in weights or tuple(weights[name].shape) != shape:
            found = f"is {tuple(weights[name].shape)}" if name in weights else "is missing"
            raise ValueError(f"{name} {found}, {shape} expected")
    if more := [name for name in weights if name.startswith("bert.encoder.") and name not in expected]:
        raise ValueError(f"{more[0]} is of no layer there is")


def _part(weights: Weights, name: str) -> WeightAndBias:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _stacked(weights: Weights, *names: str) -> Linear:
    parts = [_part(weights, name) for name in names]
    return prepare(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]))


def _placed(name: str, tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    exact = name.startswith(("bert.pooler", "classifier"))
    # torch's own norm on a GPU has no mixed types; it computes in float32 all the same.
    exact |= "LayerNorm" in name and (device.type == "cpu" or gpu_kernels(device) is not None)
    # What was read from a file may still be the file: a copy is not, and stays whatever becomes of the file. Of the
    # large matrices the products make one.
    return tensor.to(device, torch.float32 if exact else dtype, copy=tensor.ndim == 1 or "encoder" not in name)
