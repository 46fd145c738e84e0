"""A batch becomes one row and nothing of it is lost."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.packing import ROUND, Slots, pack, similar, split

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=50)


def numbered(lengths: list[int]) -> list[list[int]]:
    """Sequences in which no token is like another."""
    ends = np.cumsum(lengths)
    return [list(range(end - length + 1, end + 1)) for length, end in zip(lengths, ends, strict=True)]


@given(LENGTHS)
def test_every_token_is_in_its_place(lengths: list[int]) -> None:
    sequences = numbered(lengths)
    packed = pack(sequences)
    assert sorted(packed.order) == list(range(len(sequences)))
    for start, index in zip(packed.starts, packed.order, strict=True):
        end = start + len(sequences[index])
        assert packed.ids[start:end].tolist() == sequences[index]
        assert packed.positions[start:end].tolist() == list(range(len(sequences[index])))
    assert packed.tokens == sum(lengths) and packed.longest == max(lengths)
    assert len(packed.ids) % ROUND == 0 and len(packed.ids) - packed.tokens < ROUND
    assert not packed.ids[packed.tokens :].any() and not packed.positions[packed.tokens :].any()


@given(LENGTHS)
def test_groups_cover_the_row_in_order(lengths: list[int]) -> None:
    packed = pack(numbered(lengths))
    sequence = token = 0
    for group in packed.groups:
        assert (group.first, group.token) == (sequence, token)
        assert all(lengths[i] == group.length for i in packed.order[sequence : sequence + group.sequences])
        sequence += group.sequences
        token += group.sequences * group.length
    assert (sequence, token) == (len(lengths), packed.tokens)
    assert len(packed.groups) == len(set(lengths))


@given(LENGTHS, st.integers(1, 200))
def test_split_keeps_order_and_budget_and_wastes_no_room(lengths: list[int], budget: int) -> None:
    parts = [lengths[part] for part in split(lengths, budget)]
    assert [length for part in parts for length in part] == lengths
    assert all(sum(part) <= budget or len(part) == 1 for part in parts)
    assert all(sum(part) + after[0] > budget for part, after in pairwise(parts))


@given(LENGTHS.map(lambda lengths: sorted(lengths, reverse=True)))
def test_similar_lengths_cover_all_and_pad_no_more_than_an_eighth(lengths: list[int]) -> None:
    runs = similar(lengths)
    assert [end for _, end in runs[:-1]] == [first for first, _ in runs[1:]]
    assert (runs[0][0], runs[-1][1]) == (0, len(lengths))
    for first, end in runs:
        assert lengths[first] * (end - first) <= sum(lengths[first:end]) * 9 / 8
    for first, end in runs[:-1]:
        assert lengths[first] * (end - first + 1) > sum(lengths[first : end + 1]) * 9 / 8, "the next one had room"


@given(LENGTHS, st.integers(0, 300), st.integers(0, 20))
def test_slots_hold_the_batch_and_leave_nothing_unwritten(lengths: list[int], rows: int, sequences: int) -> None:
    packed = pack(numbered(lengths))
    slots = Slots(len(packed.ids) + rows, len(lengths) + sequences)
    assert slots.hold(packed)
    numbers = np.full(slots.size, -1, np.int32)
    slots.fill(numbers, packed)
    ids, positions, begins, ends, starts, offsets, first_offsets = np.split(numbers, np.cumsum(slots.sizes)[:-1])
    count = len(lengths)
    assert ids[: packed.tokens].tolist() == packed.ids[: packed.tokens].tolist()
    assert positions[: packed.tokens].tolist() == packed.positions[: packed.tokens].tolist()
    assert starts[:count].tolist() == packed.starts.tolist()
    assert np.diff(offsets)[:count].tolist() == [lengths[i] for i in packed.order]
    assert begins[starts[:count]].tolist() == starts[:count].tolist()
    assert [*zip(begins, ends, strict=True)][: packed.tokens] == [
        (start, start + lengths[i])
        for start, i in zip(packed.starts, packed.order, strict=True)
        for _ in range(lengths[i])
    ]
    assert (np.diff(begins) >= 0).all() and (np.diff(ends) >= 0).all() and (ends > begins).all()
    assert np.diff(offsets)[count:].tolist() == [0] * (slots.sequences - count)
    assert np.diff(first_offsets).tolist() == [1] * count + [0] * (slots.sequences - count)
    assert numbers.min() >= 0


def test_slots_do_not_hold_too_much() -> None:
    packed = pack([[1] * 10, [2] * 6])
    assert Slots(16, 2).hold(packed)
    assert not Slots(15, 2).hold(packed)
    assert not Slots(16, 1).hold(packed)
