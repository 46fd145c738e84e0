"""Attention within each sequence of a packed row, in place. Knows nothing of layers or weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from worker.engine.packing import Group


def attend(qkv: torch.Tensor, groups: Sequence[Group], heads: int) -> torch.Tensor:
    """qkv [rows, 3 * hidden] → context [rows, hidden]; rows of no sequence come out zero."""
    rows, width = qkv.shape
    hidden = width // 3
    size = hidden // heads
    context = qkv.new_empty(rows, hidden)
    end = 0
    for _, token, count, length in groups:
        end = token + count * length
        q, k, v = qkv[token:end].view(count, length, 3, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        context[token:end].view(count, length, heads, size).copy_(attended.transpose(1, 2))
    context[end:].zero_()
    return context


def attend_first(q: torch.Tensor, kv: torch.Tensor, groups: Sequence[Group], heads: int) -> torch.Tensor:
    """The first token of each sequence only: q [sequences, hidden], kv [rows, 2 * hidden] → [sequences, hidden]."""
    size = q.shape[1] // heads
    context = torch.empty_like(q)
    for sequence, token, count, length in groups:
        here = slice(sequence, sequence + count)
        k, v = kv[token : token + count * length].view(count, length, 2, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q[here].view(count, heads, 1, size), k, v)
        context[here].view(count, heads, 1, size).copy_(attended)
    return context
