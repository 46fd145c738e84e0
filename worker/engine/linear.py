"""The matrix products of the model, each with what follows it. Knows nothing of which model they belong to.

On the CPU the weights are laid out once as oneDNN's kernels want them, and bias, activation and residual are part of
the product: no pass over the result comes after it. These are the operators that torch's own compiler emits for
frozen weights; elsewhere, or where a build has none, the plain ones compute the same.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F

from worker.engine.device import gpu_kernels
from worker.engine.spec import Activation

ROWS = 1024
"""How many rows the layout of the weights is made for; measured: it is the same from 32 rows on."""
WeightAndBias = tuple[torch.Tensor, torch.Tensor]
_GELU = {"gelu": "none", "gelu_tanh": "tanh"}


class Linear(Protocol):
    """x [rows, in] → activation(x @ weight.T + bias), or without an activation + residual; all [rows, out]."""

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor: ...


def prepare(weight: torch.Tensor, bias: torch.Tensor, activation: Activation | None = None) -> Linear:
    """The fastest form on the weight's device; on the processor with a copy of the weight. With an activation it is
    never given a residual."""
    if weight.device.type != "cpu":
        return PlainLinear(weight, bias, activation)
    if has_fused_kernels(weight.dtype):
        return FusedLinear(weight, bias, activation)
    return PlainLinear(weight.clone(), bias, activation)


def has_fused_kernels(dtype: torch.dtype) -> bool:
    """Whether this build of torch has oneDNN's fused products, and this processor their arithmetic."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # type: ignore[no-untyped-call]
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


def fused(activation: Activation | None) -> tuple[Any, ...]:
    """How oneDNN's products are told what follows them."""
    if activation is None or activation == "relu":
        return activation or "none", [], ""
    return "gelu", [], _GELU[activation]


class FusedLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, activation: Activation | None) -> None:
        # A layout of oneDNN's own: nothing but its products can read it.
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self._bias = bias
        self._attributes = fused(activation)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        product = torch.ops.mkldnn._linear_pointwise
        result: torch.Tensor
        if residual is None:
            result = product(x, self._weight, self._bias, *self._attributes)
        else:
            result = product.binary(x, residual, self._weight, self._bias, "add")
        return result


class WideProducts:
    """A layer's product up to its widest, with the activation, and the one down: x → down(up(x)) + residual."""

    def __init__(self, up: WeightAndBias, down: WeightAndBias, activation: Activation) -> None:
        self._up = prepare(*up, activation)
        self._down = prepare(*down)

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        return self._down(self._up(x), residual)


class PlainLinear:
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor, activation: Activation | None) -> None:
        self._weight = weight
        self._bias = bias
        self._activation = activation

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        if self._activation == "gelu" and x.dtype != torch.float32 and (kernels := gpu_kernels(x.device)):
            activated: torch.Tensor = kernels.linear_gelu(x, self._weight, self._bias)
            return activated
        result = F.linear(x, self._weight, self._bias)
        if self._activation == "relu":
            return result.relu_()
        if self._activation is not None:
            return F.gelu(result, approximate=_GELU[self._activation])
        return result if residual is None else result.add_(residual)
