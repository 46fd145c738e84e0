"""Attention within each sequence of a packed row, in place. Knows nothing of layers or weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from worker.engine.device import gpu_kernels
from worker.engine.packing import Group, Packed


class Ranges(NamedTuple):
    """Which keys each query attends to, int32; only on GPUs in half precision."""

    begins: torch.Tensor
    """First row of each token's sequence [rows]."""
    ends: torch.Tensor
    """Row behind it [rows]."""
    offsets: torch.Tensor
    """Where each sequence begins, and the end of the last [sequences + 1]."""
    first_offsets: torch.Tensor
    """0, 1, 2, …: the same of first tokens alone [sequences + 1]."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A packed batch on its device; see packing.Packed. Integers are of the widths that the kernels want."""

    ids: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    groups: Sequence[Group]
    longest: int
    ranges: Ranges | None = None

    @classmethod
    def of(cls, packed: Packed) -> Batch:
        """On the CPU, without copies."""
        ids, positions, starts = map(torch.from_numpy, (packed.ids, packed.positions, packed.starts))
        return cls(ids, positions, starts, packed.groups, packed.longest)


Model = Callable[[Batch], torch.Tensor]
"""A classifier on its device: a packed batch → probabilities [sequences, labels], float32."""


def attend(qkv: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Queries, keys and values [rows, 3, heads, size] → context [rows, heads, size]."""
    if batch.ranges:
        q, k, v = qkv.unbind(1)
        begins, ends, offsets, _ = batch.ranges
        if kernels := _kernels(q):
            context: torch.Tensor = kernels.attention(q, k, v, begins, ends)
            return context
        return _varlen(q, k, v, offsets, offsets, batch.longest, batch.longest)
    rows, _, heads, size = qkv.shape
    context = torch.empty(rows, heads, size, dtype=qkv.dtype, device=qkv.device)
    # Measured on a processor with AVX512-BF16: up to twice as fast, whatever the length; in float32 it is no faster.
    kernel = _by_products if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu" else _fused
    end = 0
    for _, token, sequences, length in batch.groups:
        end = token + sequences * length
        group = qkv[token:end].view(sequences, length, 3, heads, size).permute(2, 0, 3, 1, 4)
        context[token:end].view(sequences, length, heads, size).copy_(kernel(group).transpose(1, 2))
    context[end:].zero_()  # rows of no sequence: whatever was in memory there could be slow or infinite
    return context


def attend_first(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The same for first tokens only: q [sequences, heads, size] → context [sequences, heads, size]."""
    if batch.ranges:
        _, _, offsets, first_offsets = batch.ranges
        if kernels := _kernels(q):
            context: torch.Tensor = kernels.attention(q, k, v, offsets[:-1], offsets[1:])
            return context
        return _varlen(q, k, v, first_offsets, offsets, 1, batch.longest)
    _, heads, size = q.shape
    context = torch.empty_like(q)
    for first, token, sequences, length in batch.groups:
        keys, values = (
            part[token : token + sequences * length].view(sequences, length, heads, size).transpose(1, 2)
            for part in (k, v)
        )
        queries = q[first : first + sequences].view(sequences, heads, 1, size)
        attended = F.scaled_dot_product_attention(queries, keys, values)
        context[first : first + sequences].view(sequences, heads, 1, size).copy_(attended)
    return context


def _fused(qkv: torch.Tensor) -> torch.Tensor:
    """[3, sequences, heads, length, size] → [sequences, heads, length, size]."""
    return F.scaled_dot_product_attention(*qkv)


def _by_products(qkv: torch.Tensor) -> torch.Tensor:
    """The same as two batched products with a softmax in float32 between: for short sequences torch's fused kernel
    spends its time on other things."""
    q, k, v = qkv.contiguous().flatten(1, 2)
    scores = torch.bmm(q.mul_(q.shape[-1] ** -0.5), k.transpose(1, 2))
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)
    return torch.bmm(weights, v).view(qkv.shape[1:])


def _kernels(q: torch.Tensor) -> Any:
    kernels = gpu_kernels(q.device)
    return kernels if kernels and q.shape[-1] in kernels.HEAD_SIZES else None


def _varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    q_offsets: torch.Tensor,
    k_offsets: torch.Tensor,
    longest_q: int,
    longest_k: int,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn  # only on GPUs: it has no CPU kernel and no float32

    # Positional only: its keywords changed from release to release.
    context = varlen_attn(q, k, v, q_offsets, k_offsets, longest_q, longest_k)
    assert isinstance(context, torch.Tensor)  # a tuple only where more was asked for
    return context
