"""How ragged sequences become one row of tokens. Pure; knows neither torch nor models.

The sequences of a batch are laid end to end, longest first, so that those of equal length are neighbours: attention
then reads each such group in place, without copies and without padding. The row is padded only at its end, to a
multiple of `ROUND`, because every new number of rows costs the kernel library a new kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ROUND = 4


class Group(NamedTuple):
    """Neighbours of equal length: `sequences` of them from number `first`, their tokens from `token`."""

    first: int
    token: int
    sequences: int
    length: int


@dataclass(frozen=True, slots=True)
class Packed:
    """One batch. Sequence i of the row is number `order[i]` of the input."""

    ids: NDArray[np.int64]
    """Token ids [rows]; zeros after the last sequence."""
    positions: NDArray[np.int64]
    """Position of each token in its sequence [rows], from 0."""
    starts: NDArray[np.int64]
    """Row of each sequence's first token [sequences]."""
    lengths: NDArray[np.int64]
    """Tokens of each sequence [sequences]."""
    order: NDArray[np.int64]
    groups: list[Group]
    tokens: int
    longest: int


def pack(sequences: Sequence[Sequence[int]]) -> Packed:
    """Lays sequences (each of at least one token) into one row."""
    lengths = np.fromiter((len(sequence) for sequence in sequences), np.int64, len(sequences))
    order = np.argsort(-lengths, kind="stable")
    lengths = lengths[order]
    ends = np.cumsum(lengths)
    starts = ends - lengths
    tokens = int(ends[-1])
    ids = np.zeros(-tokens % ROUND + tokens, np.int64)
    position = 0
    for index in order:
        sequence = sequences[index]
        ids[position : position + len(sequence)] = sequence
        position += len(sequence)
    positions = np.zeros_like(ids)
    positions[:tokens] = np.arange(tokens) - np.repeat(starts, lengths)
    first = np.flatnonzero(np.diff(lengths, prepend=0))
    counts = np.diff(first, append=len(lengths))
    groups = [Group(int(i), int(starts[i]), int(n), int(lengths[i])) for i, n in zip(first, counts, strict=True)]
    return Packed(ids, positions, starts, lengths, order, groups, tokens, int(lengths[0]))


def split(lengths: Sequence[int], budget: int) -> list[slice]:
    """Cuts a list of sequences into runs of at most `budget` tokens each, one sequence at least."""
    slices, begin, used = [], 0, 0
    for index, length in enumerate(lengths):
        if used + length > budget and index > begin:
            slices.append(slice(begin, index))
            begin, used = index, 0
        used += length
    if begin < len(lengths):
        slices.append(slice(begin, len(lengths)))
    return slices


def similar(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cuts lengths, longest first, into runs that padding to the run's first makes at most an eighth larger."""
    runs, first, used = [], 0, 0
    for index, length in enumerate(lengths):
        if (index + 1 - first) * lengths[first] > (used + length) * 9 / 8:
            runs.append((first, index))
            first, used = index, 0
        used += length
    runs.append((first, len(lengths)))
    return runs


@dataclass(frozen=True, slots=True)
class Slots:
    """A batch as one array of int32, so that one copy takes it to a GPU; its shape may be larger than the batch.

    A CUDA graph always computes its own shape: `rows` tokens of `sequences` sequences. The tokens that a batch leaves
    free belong to no sequence, and the sequences left free are empty: their offsets repeat the last one.
    """

    rows: int
    sequences: int

    @classmethod
    def exactly(cls, packed: Packed) -> Slots:
        """The shape of a batch that is not launched as a graph."""
        return cls(len(packed.ids), len(packed.order))

    def hold(self, packed: Packed) -> bool:
        return packed.tokens <= self.rows and len(packed.order) <= self.sequences

    @property
    def sizes(self) -> list[int]:
        """Of ids, positions, begins, ends, starts, offsets and first tokens' offsets, one after the other in the array.

        Begins and ends are those of each token's sequence.
        """
        return [self.rows] * 4 + [self.sequences, self.sequences + 1, self.sequences + 1]

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def fill(self, numbers: NDArray[np.int32], packed: Packed) -> None:
        """Writes a batch that the slots hold into an array of `size`, all of it."""
        ids, positions, begins, ends, starts, offsets, first_offsets = np.split(numbers, np.cumsum(self.sizes)[:-1])
        tokens, count = packed.tokens, len(packed.order)
        rows = np.arange(self.rows)
        numbers[:] = 0
        ids[:tokens] = packed.ids[:tokens]
        positions[:tokens] = packed.positions[:tokens]
        begins[:] = rows - positions
        ends[:] = rows + 1
        ends[:tokens] = np.repeat(packed.starts + packed.lengths, packed.lengths)
        starts[:count] = packed.starts
        offsets[:count] = packed.starts
        offsets[count:] = tokens
        first_offsets[:] = np.minimum(np.arange(self.sequences + 1), count)
