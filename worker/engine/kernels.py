"""What a model on a GPU computes between its matrix products, as Triton kernels; torch's own do the same, slower.

Residual and norm are one pass over memory, GELU is part of its product, and attention runs over the packed row: torch's
computes 128 by 128 scores for the shortest review, here a tile holds as many short reviews as it has room for.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

LARGEST_HEAD = 128


def add_norm(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Layer norm of x + residual, both contiguous [rows, width], in float32; weight and bias are float32 [width]."""
    rows, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    _add_norm[(rows,)](x, residual, weight, bias, out, epsilon, width, block, num_warps=max(1, block // 1024))
    return out


def linear_gelu(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(x @ weight.T + bias), all contiguous in half precision: x [rows, in] → [rows, out].

    GELU is right to 2.6e-5, a hundredth of what rounding to bfloat16 does at 1.
    """
    rows, (columns, inner) = len(x), weight.shape
    # The product's tiles must fill the multiprocessors several times over, and two stages of them a block's memory.
    if rows < 8192 or columns % 256 or inner % 64 or torch.cuda.get_device_capability(x.device)[0] not in (9, 10):
        out = F.linear(x, weight, bias)
        _gelu[(triton.cdiv(out.numel(), 1024),)](out, out.numel(), 1024, num_warps=4)
        return out
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    programs = torch.cuda.get_device_properties(x.device).multi_processor_count
    tensors = [(x, [128, 64]), (weight, [256, 64]), (out, [128, 256])]
    _linear_gelu[(programs,)](
        *(TensorDescriptor.from_tensor(tensor, tile) for tensor, tile in tensors), bias, rows, columns, inner, programs,
        128, 256, 64, num_warps=8, num_stages=3,
    )  # fmt: skip
    return out


def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, begins: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """Query i attends to the keys from `begins[i]` up to `ends[i]`: q [queries, heads, size], k and v [rows, heads,
    size] → [queries, heads, size], zeros where there is no key.

    Both are int32 and ascend, so that a tile of neighbours has one range of keys to read. k and v have the same
    strides; the numbers of one head lie side by side.
    """
    queries, heads, size = q.shape
    out = torch.empty((queries, heads, size), dtype=q.dtype, device=q.device)
    tile = 64 if queries == len(k) else 16  # of first tokens, each has a sequence of keys of its own
    _attention[(triton.cdiv(queries, tile), heads)](
        q, k, v, out, begins, ends, queries, *q.stride()[:2], *k.stride()[:2], size**-0.5 * math.log2(math.e),
        heads, size, max(16, triton.next_power_of_2(size)), tile, 32 if tile == 64 else 64, num_warps=4, num_stages=3,
    )  # fmt: skip
    return out


def problem(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why these kernels cannot be used on the device, found by trying them: no C compiler, say; None where they can."""
    try:
        x, residual = torch.randn(2, 3, 96, device=device).to(dtype)
        weight, bias = torch.randn(2, 96, device=device)
        norm = F.layer_norm(x.float() + residual.float(), [96], weight, bias, 1e-12)
        q, k, v = torch.randn(3, 99, 2, 32, device=device).to(dtype)
        whole = F.scaled_dot_product_attention(*(part.transpose(0, 1).float() for part in (q, k, v))).transpose(0, 1)
        begins = torch.zeros(99, dtype=torch.int32, device=device)
        rows, matrix, added = (
            torch.randn(size, device=device).to(dtype) for size in ((8200, 256), (1024, 256), (1024,))
        )
        gelu = F.gelu(F.linear(rows.float(), matrix.float(), added.float()))
        for name, found, expected in (
            ("norm", add_norm(x, residual, weight, bias, 1e-12), norm),
            ("attention", attention(q, k, v, begins, begins + 99), whole),
            ("attention of first tokens", attention(q[:1], k, v, begins[:1], begins[:1] + 99), whole[:1]),
            ("GELU", linear_gelu(rows, matrix, added), gelu),
            ("small GELU", linear_gelu(rows[:3], matrix, added), gelu[:3]),
        ):
            if not torch.allclose(found.float(), expected, atol=0.03, rtol=0.02):
                return f"the {name} kernel's answers are wrong"
    except Exception as error:  # whatever a compiler or driver says, torch's own kernels do without
        return f"{type(error).__name__}: {error}".partition("\n")[0]
    return None


# What differs from batch to batch is not specialized on: a new variant would be compiled in the middle of a stream.


@triton.jit  # type: ignore[untyped-decorator]
def _add_norm(
    x: tl.tensor, residual: tl.tensor, weight: tl.tensor, bias: tl.tensor, out: tl.tensor, epsilon: tl.tensor,
    width: tl.constexpr, block: tl.constexpr,
) -> None:  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, block)
    inside = column < width
    value = tl.load(x + row + column, mask=inside, other=0.0).to(tl.float32)
    value += tl.load(residual + row + column, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, 0) / width
    centred = tl.where(inside, value - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + epsilon)
    scaled = centred * scale * tl.load(weight + column, mask=inside) + tl.load(bias + column, mask=inside)
    tl.store(out + row + column, scaled.to(out.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _near_gelu(x: tl.tensor) -> tl.tensor:
    """The log-odds of the normal distribution are odd and smooth: x times a polynomial of its square, in powers of two,
    fitted here to the least largest error of GELU. erf itself takes three times as many instructions."""
    square = tl.minimum(x * x, 40.0)
    odds = x * (2.30112127 + square * (0.10677574 - square * 0.00101427))
    return x / (1.0 + tl.exp2(-odds))


@triton.jit(do_not_specialize=["size"])  # type: ignore[untyped-decorator]
def _gelu(x: tl.tensor, size: tl.tensor, block: tl.constexpr) -> None:
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    value = tl.load(x + at, mask=at < size).to(tl.float32)
    tl.store(x + at, _near_gelu(value).to(x.dtype.element_ty), mask=at < size)


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _linear_gelu(
    x: tl.tensor, weight: tl.tensor, out: tl.tensor, bias: tl.tensor, rows: tl.tensor, columns: tl.tensor,
    inner: tl.tensor, programs: tl.constexpr, row_tile: tl.constexpr, column_tile: tl.constexpr,
    inner_tile: tl.constexpr,
) -> None:  # fmt: skip
    """Each program computes every so many-th tile. Neighbouring tiles share rows of x or of the weight in the cache."""
    down, across = tl.cdiv(rows, row_tile), tl.cdiv(columns, column_tile)
    for tile in tl.range(tl.program_id(0), down * across, programs, flatten=True):
        first = tile // (8 * across) * 8
        height = tl.minimum(down - first, 8)
        row = (first + tile % (8 * across) % height) * row_tile
        column = tile % (8 * across) // height * column_tile
        total = tl.zeros((row_tile, column_tile), tl.float32)
        for at in range(0, inner, inner_tile):
            total = tl.dot(x.load([row, at]), weight.load([column, at]).T, total)
        total += tl.load(bias + column + tl.arange(0, column_tile)).to(tl.float32)[None, :]
        out.store([row, column], _near_gelu(total).to(bias.dtype.element_ty))


@triton.jit(do_not_specialize=["queries"], do_not_specialize_on_alignment=["begins", "ends"])  # type: ignore[untyped-decorator]
def _attention(
    q: tl.tensor, k: tl.tensor, v: tl.tensor, out: tl.tensor, begins: tl.tensor, ends: tl.tensor, queries: tl.tensor,
    q_stride: tl.tensor, q_head_stride: tl.tensor, k_stride: tl.tensor, k_head_stride: tl.tensor, scale: tl.tensor,
    heads: tl.constexpr, size: tl.constexpr, block: tl.constexpr, q_tile: tl.constexpr, k_tile: tl.constexpr,
) -> None:  # fmt: skip
    first = tl.program_id(0) * q_tile
    q_row = first + tl.arange(0, q_tile)
    q_inside = q_row < queries
    head = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, block)[None, :]
    q_at = q_row.to(tl.int64)[:, None]
    begin = tl.load(begins + q_row, mask=q_inside, other=0)[:, None]
    end = tl.load(ends + q_row, mask=q_inside, other=0)[:, None]
    q_mask = q_inside[:, None] if size == block else q_inside[:, None] & (column < size)
    rows = tl.load(q + q_at * q_stride + head * q_head_stride + column, mask=q_mask, other=0.0)
    # Below every score there is, but finite: a row without keys in this tile must not become NaN.
    largest = tl.full([q_tile], -1.0e30, tl.float32)
    total = tl.zeros([q_tile], tl.float32)
    context = tl.zeros([q_tile, block], tl.float32)
    k_begin = tl.load(begins + first)
    k_end = tl.load(ends + tl.minimum(first + q_tile, queries) - 1)
    for tile in range(k_begin, k_end, k_tile):
        k_row = tile + tl.arange(0, k_tile)
        k_at = k_row.to(tl.int64)[:, None] * k_stride + head * k_head_stride + column
        k_inside = (k_row < k_end)[:, None]
        k_mask = k_inside if size == block else k_inside & (column < size)
        keys = tl.load(k + k_at, mask=k_mask, other=0.0)
        values = tl.load(v + k_at, mask=k_mask, other=0.0)
        own = (k_row[None, :] >= begin) & (k_row[None, :] < end)
        scores = tl.where(own, tl.dot(rows, tl.trans(keys)) * scale, -1.0e30)
        larger = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.where(own, tl.exp2(scores - larger[:, None]), 0.0)
        shrunk = tl.exp2(largest - larger)
        total = total * shrunk + tl.sum(weights, 1)
        context = context * shrunk[:, None] + tl.dot(weights.to(values.dtype), values)
        largest = larger
    context = context / tl.maximum(total, 1.0e-30)[:, None]
    tl.store(out + (q_at * heads + head) * size + column, context.to(out.dtype.element_ty), mask=q_mask)
