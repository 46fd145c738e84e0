"""Attention within each sequence of a packed row, in place. Knows nothing of layers or weights."""

from __future__ import annotations

from collections.abc import Sequence
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


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: Batch) -> torch.Tensor:
    """q, k, v [rows, heads, size], possibly views of one tensor → context [rows, heads, size]."""
    if batch.offsets is not None:
        return _varlen(q, k, v, batch.offsets, batch.offsets, batch.longest, batch.longest)
    rows, heads, size = q.shape
    context = torch.empty(rows, heads, size, dtype=q.dtype, device=q.device)
    end = 0
    for _, token, sequences, length in batch.groups:
        end = token + sequences * length
        queries, keys, values = (
            part[token:end].view(sequences, length, heads, size).transpose(1, 2) for part in (q, k, v)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)
        context[token:end].view(sequences, length, heads, size).copy_(attended.transpose(1, 2))
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
