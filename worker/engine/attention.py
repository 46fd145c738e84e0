"""Attention within each sequence of a packed row, in place. Knows nothing of layers or weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from worker.engine.packing import Group, Packed


@dataclass(frozen=True, slots=True)
class Batch:
    """A packed batch on its device; see packing.Packed. Integers are of the widths that the kernels want."""

    ids: torch.Tensor
    positions: torch.Tensor
    starts: torch.Tensor
    groups: Sequence[Group]
    longest: int
    offsets: torch.Tensor | None = None
    """int32 [sequences + 1], on GPUs in half precision: where each sequence begins, and the end of the last."""
    first_offsets: torch.Tensor | None = None
    """int32 [sequences + 1]: 0, 1, 2, …; the offsets of first tokens alone."""

    @classmethod
    def of(cls, packed: Packed) -> Batch:
        """On the CPU, without copies."""
        ids, positions, starts = map(torch.from_numpy, (packed.ids, packed.positions, packed.starts))
        return cls(ids, positions, starts, packed.groups, packed.longest)


Model = Callable[[Batch], torch.Tensor]
"""A classifier on its device: a packed batch → probabilities [sequences, labels], float32."""


def attend(qkv: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Queries, keys and values [rows, 3, heads, size] → context [rows, heads, size]."""
    if batch.offsets is not None:
        q, k, v = qkv.unbind(1)
        return _varlen(q, k, v, batch.offsets, batch.offsets, batch.longest, batch.longest)
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
    if batch.offsets is not None and batch.first_offsets is not None:
        return _varlen(q, k, v, batch.first_offsets, batch.offsets, 1, batch.longest)
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
