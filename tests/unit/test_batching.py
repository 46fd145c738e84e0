"""Batches by tokens: first in, first out, within the budget, nothing lost and nothing stuck."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from worker.batching import TokenQueue


@dataclass(frozen=True)
class Item:
    number: int
    cost: int


costs = st.lists(st.sampled_from([0, 1, 5]) | st.integers(0, 300), max_size=40)


def items(costs: list[int]) -> list[Item]:
    return [Item(number, cost) for number, cost in enumerate(costs)]


@given(costs, st.integers(1, 200))
def test_batches_are_the_queue_in_order_cut_where_the_budget_ends(costs: list[int], budget: int) -> None:
    queue: TokenQueue[Item] = TokenQueue()
    queue.put(items(costs))
    taken: list[Item] = []
    while queue:
        before = len(queue)
        batch = queue.take(budget)
        assert 0 < len(batch) == before - len(queue)
        assert sum(item.cost for item in batch) <= budget or sum(item.cost > 0 for item in batch) == 1
        if queue:
            rest = costs[len(taken) + len(batch)]
            assert sum(item.cost for item in batch) + rest > budget, "the longest run that fits"
        taken += batch
    assert taken == items(costs)
    assert queue.tokens == 0
    assert queue.take(budget) == []


@given(st.lists(st.one_of(costs, st.integers(1, 200)), max_size=20), st.integers(2, 5))
def test_the_tokens_counted_are_those_waiting(steps: list[list[int] | int], drop: int) -> None:
    queue: TokenQueue[Item] = TokenQueue()
    model: list[Item] = []
    for step in steps:
        if isinstance(step, list):
            queue.put(items(step))
            model += items(step)
        elif step % 5:
            del model[: len(queue.take(step))]
        else:
            dropped = queue.discard(lambda item: item.number % drop == 0)
            assert dropped == [item for item in model if item.number % drop == 0]
            model = [item for item in model if item.number % drop]
        assert (len(queue), queue.tokens) == (len(model), sum(item.cost for item in model))
    assert [item for _ in range(len(model)) for item in queue.take(200)] == model


def test_a_single_record_goes_at_once_and_a_giant_goes_alone() -> None:
    queue: TokenQueue[Item] = TokenQueue()
    queue.put([Item(0, 3)])
    assert queue.take(1000) == [Item(0, 3)]
    queue.put([Item(1, 5000), Item(2, 1), Item(3, 0)])
    assert queue.take(1000) == [Item(1, 5000)]
    assert queue.take(1000) == [Item(2, 1), Item(3, 0)]


def test_what_costs_nothing_passes_whatever_the_budget() -> None:
    queue: TokenQueue[Item] = TokenQueue()
    queue.put([Item(number, 0) for number in range(5)])
    assert len(queue.take(1)) == 5
