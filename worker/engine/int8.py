"""The two wide products of a layer in int8, for processors that multiply it natively. Knows no texts and no files.

A product up writes int8 itself, activation included, and the product down reads it: of what is wide nothing is ever
written in another type. Ranges are static, observed once on real reviews. What keeps the labels:

- each input channel's range is shared between input and weight: SmoothQuant (Xiao et al., arXiv:2211.10438);
- the few inner channels with the largest values stay as they were: LLM.int8() (Dettmers et al., arXiv:2208.07339).
  In a fine-tuned MiniLM one of 1,536 reaches 24 where the others stay below 6: int8 would have to take steps for 24.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch

from worker.engine.attention import Batch, Model
from worker.engine.bert import PackedBert, Weights
from worker.engine.linear import WeightAndBias, WideProducts, fused
from worker.engine.packing import Packed
from worker.engine.spec import Activation, BertSpec

SHARE = 0.7
"""How much of a channel's range the weight takes over: SmoothQuant's alpha; 0.5 kept fewer labels, 0.8 no more."""
EXACT = 16
"""Inner channels that stay as they were; with 8 a fine-tuned MiniLM kept fewer labels, with 64 no more."""


def quantized(spec: BertSpec, weights: Weights, dtype: torch.dtype, reviews: Iterable[Packed]) -> tuple[Model, Model]:
    """The model with its wide products in int8 and all others in `dtype`, and the float32 one it was observed on."""
    observed: list[Observed] = []

    def observe(up: WeightAndBias, down: WeightAndBias, activation: Activation) -> Observed:
        observed.append(Observed(up, down, activation))
        return observed[-1]

    cpu = torch.device("cpu")
    reference = PackedBert(spec, weights, cpu, torch.float32, observe)
    with torch.inference_mode():
        for packed in reviews:
            batch = Batch.of(packed)
            # Without the rows that belong to no review: their values mean nothing.
            ids, positions = batch.ids[: packed.tokens], batch.positions[: packed.tokens]
            reference(dataclasses.replace(batch, ids=ids, positions=positions))
    layers = iter(observed)

    def in_int8(up: WeightAndBias, *_: object) -> Int8WideProducts:
        return Int8WideProducts(next(layers), up[0].dtype)

    return PackedBert(spec, weights, cpu, dtype, in_int8), reference


class Range:
    """Least and largest value of each channel."""

    def __init__(self) -> None:
        self.low = self.high = torch.zeros(1)

    def widen(self, x: torch.Tensor) -> None:
        self.low, self.high = torch.minimum(self.low, x.amin(0)), torch.maximum(self.high, x.amax(0))


class Observed(WideProducts):
    """The products as they are; sees what goes into each."""

    def __init__(self, up: WeightAndBias, down: WeightAndBias, activation: Activation) -> None:
        super().__init__(up, down, activation)
        self.up, self.down, self.activation = up, down, activation
        self.input, self.inner = Range(), Range()

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        inner = self._up(x)
        self.input.widen(x)
        self.inner.widen(inner)
        return self._down(inner, residual)


class Grid:
    """Values least … most as 0 … 255: value / scale + zero, rounded; 0 is on the grid."""

    def __init__(self, least: torch.Tensor, most: torch.Tensor) -> None:
        low, high = min(0.0, float(least)), max(0.0, float(most))
        self.scale = max(high - low, 1e-6) / 255
        self.zero = round(-low / self.scale)


class Int8WideProducts:
    """What WideProducts computes, of x [rows, hidden] with a residual of the same shape, in int8."""

    def __init__(self, observed: Observed, dtype: torch.dtype) -> None:
        """`dtype` is that of x, residual and result."""
        (up, up_bias), (down, down_bias), activation = observed.up, observed.down, observed.activation
        seen, inner = observed.input, observed.inner
        reach = torch.maximum(seen.high, -seen.low).clamp(min=1e-5)
        share = reach**SHARE / up.abs().amax(0).clamp(min=1e-5) ** (1 - SHARE)
        self._input = Grid((seen.low / share).min(), (seen.high / share).max())
        self._factor = 1 / (share * self._input.scale)
        self._offset = torch.tensor(self._input.zero + 0.5)  # what follows cuts off
        self._up = _rounded(up * share)
        self._up_bias = up_bias
        self._activation = fused(activation)

        exact = torch.zeros(len(up_bias), dtype=torch.bool)
        exact[inner.high.topk(min(EXACT, len(up_bias) - 1)).indices] = True
        self._inner = Grid(inner.low[~exact].min(), inner.high[~exact].max())
        self._down = _rounded(down.masked_fill(exact, 0.0))
        parts = up[exact], up_bias[exact], down[:, exact].contiguous(), down_bias
        up, up_bias, down, down_bias = (part.to(dtype) for part in parts)
        self._exact = WideProducts((up, up_bias), (down, down_bias), activation)
        self._dtype = dtype

    def __call__(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        product = torch.ops.onednn.qlinear_pointwise
        quantized = torch.addcmul(self._offset, x.float(), self._factor).clamp_(0, 255).to(torch.uint8)
        wide = product(
            quantized, self._input.scale, self._input.zero, *self._up, self._up_bias,
            self._inner.scale, self._inner.zero, torch.uint8, *self._activation,
        )  # fmt: skip
        rest = self._exact(x, residual)
        result: torch.Tensor = product.binary(  # adds to the rest in place
            wide, self._inner.scale, self._inner.zero, *self._down, rest, None,
            1.0, 0, self._dtype, 1.0, 0, "sum", 1.0, "none", [], "",
        )  # fmt: skip
        return result


def _rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The weight in int8, in oneDNN's own layout, and scale and zero of each output."""
    scales = weight.abs().amax(1).clamp(min=1e-8) / 127
    rounded = (weight / scales[:, None]).round().to(torch.int8)
    return torch.ops.onednn.qlinear_prepack(rounded, None), scales, torch.zeros(len(scales), dtype=torch.int64)
