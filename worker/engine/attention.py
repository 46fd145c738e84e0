"""Attention within each sequence of a packed row, in place. Knows nothing of layers or weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from worker.engine.device import gpu_kernels
from worker.engine.packing import Group, Packed, Slots, similar


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


class Padded(NamedTuple):
    """Neighbours of similar length, padded to the longest."""

    token: int
    """Row of the first one's first token."""
    sequences: int
    width: int
    rows: torch.Tensor
    """Which row each place is read from [sequences * width]; behind a sequence's end its last token is read again."""
    bias: torch.Tensor
    """What the scores of each key get [sequences, 1, width]: 0, or -inf behind the end."""
    places: torch.Tensor
    """Which places are tokens, row by row [tokens]."""


@dataclass(frozen=True)
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

    @classmethod
    def of_slots(
        cls, slots: Slots, numbers: torch.Tensor, longest: int, groups: Sequence[Group] = (), ranges: bool = True
    ) -> Batch:
        """What `slots` filled, on its device; a graph, whose batches differ, has no groups."""
        ids, positions, begins, ends, starts, offsets, first_offsets = torch.split(numbers, slots.sizes)
        found = Ranges(begins, ends, offsets, first_offsets) if ranges else None
        return cls(ids, positions, starts, groups, longest, found)

    @functools.cached_property
    def padded(self) -> list[Padded]:
        """The same for all layers."""
        lengths = np.repeat([group.length for group in self.groups], [group.sequences for group in self.groups])
        starts = self.starts.numpy()
        found = []
        for first, end in similar(lengths.tolist()):
            own = lengths[first:end, None]
            column = np.arange(lengths[first])
            rows = torch.from_numpy(starts[first:end, None] + np.minimum(column, own - 1)).flatten()
            bias = torch.from_numpy(np.where(column < own, 0.0, -np.inf)).bfloat16()[:, None]
            places = torch.from_numpy(np.flatnonzero(column < own))
            found.append(Padded(int(starts[first]), end - first, len(column), rows, bias, places))
        return found


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
    end = 0
    # Measured on a processor with AVX512-BF16: up to twice as fast, whatever the length; in float32 it is slower.
    if qkv.dtype == torch.bfloat16 and qkv.device.type == "cpu":
        for padded in batch.padded:
            end = padded.token + len(padded.places)
            _by_products(qkv, padded, out=context[padded.token : end])
    else:
        for _, token, sequences, length in batch.groups:
            end = token + sequences * length
            group = qkv[token:end].view(sequences, length, 3, heads, size).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(*group).transpose(1, 2)
            context[token:end].view(sequences, length, heads, size).copy_(attended)
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


def _by_products(qkv: torch.Tensor, padded: Padded, out: torch.Tensor) -> None:
    """Attention of padded sequences as two batched products with a softmax in float32 between: for short sequences
    torch's fused kernel spends its time on other things, and so do many small products."""
    _, sequences, width, rows, bias, places = padded
    _, _, heads, size = qkv.shape
    parts = qkv.index_select(0, rows).view(sequences, width, 3, heads, size).permute(2, 0, 3, 1, 4)
    q, k, v = parts.contiguous().flatten(1, 2)
    scores = torch.baddbmm(bias.repeat_interleave(heads, 0), q, k.transpose(1, 2), alpha=size**-0.5)
    weights = torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)
    context = torch.bmm(weights, v).view(sequences, heads, width, size).transpose(1, 2)
    torch.index_select(context.reshape(-1, heads, size), 0, places, out=out)


def _kernels(q: torch.Tensor) -> Any:
    kernels = gpu_kernels(q.device)
    return kernels if kernels and q.shape[-1] <= kernels.LARGEST_HEAD else None


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
