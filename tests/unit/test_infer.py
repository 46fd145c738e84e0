"""Whatever happens to a batch: the guilty record alone is rejected, and none for what the device did."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.dead_letter import RejectReason
from tests.fakes.works import MODEL, make_work
from worker import metrics as m
from worker.faults import DeviceFault, OutOfMemory
from worker.infer import InferStage
from worker.metrics import Metrics
from worker.work import Rejection, Work

CANARY = "canary"


class ScriptedEngine:
    """Answers by the first token of each sequence; fails as it was told."""

    def __init__(
        self,
        poison: Collection[int] = (),
        nan: Collection[int] = (),
        memory: float = math.inf,
        budget: int = 4096,
        healthy: Sequence[bool] = (True,),
        broken: Exception | None = None,
    ) -> None:
        self.labels = ["negative", "positive"]
        self.token_budget = budget
        self.poison, self.nan, self.memory, self.broken = set(poison), set(nan), memory, broken
        self.healthy = list(healthy)
        self.forwards = self.self_tests = 0

    def classify(self, sequences: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        self.forwards += 1
        firsts = [sequence[0] for sequence in sequences]
        if min(sum(map(len, sequences)), self.token_budget) > self.memory:  # it cuts at its budget by itself
            raise OutOfMemory("no room")
        if self.broken is not None:
            raise self.broken
        if self.poison.intersection(firsts):
            raise ValueError(f"cannot read {CANARY}")
        # Two neighbours of a row that is no number are none either, as on a GPU whose attention is computed in tiles.
        nan = {first for first in self.nan.intersection(firsts) for first in (first - 1, first, first + 1)}
        rows = [[math.nan, 0.5] if first in nan else [1 - share(first), share(first)] for first in firsts]
        return np.array(rows, dtype=np.float32)

    def self_test(self) -> bool:
        self.self_tests += 1
        if self.token_budget > self.memory:
            raise OutOfMemory("no room")
        return self.healthy.pop(0) if len(self.healthy) > 1 else self.healthy[0]

    def shrink(self) -> bool:
        if self.token_budget <= 8:
            return False
        self.token_budget //= 2
        return True


def share(number: int) -> float:
    return number / 1024


def batch(count: int, tokens: int = 4) -> list[Work]:
    works = [make_work(offset=number) for number in range(count)]
    for number, work in enumerate(works):
        work.tokens = [number] + [9] * (tokens - 1)
    return works


def infer(engine: ScriptedEngine, works: Sequence[Work], metrics: Metrics | None = None) -> None:
    InferStage(engine, MODEL, metrics or Metrics(), clock=lambda: 123.5).infer(works)


def rejected(works: Sequence[Work]) -> list[int]:
    return [work.record.offset for work in works if work.rejection is not None]


def assert_right_answers(works: Sequence[Work]) -> None:
    for work in works:
        if work.rejection is None:
            assert work.scores is not None
            assert work.scores["positive"] == pytest.approx(share(work.record.offset), abs=1e-6)
            assert (work.classified_at, work.model) == (123.5, MODEL)
        else:
            assert work.scores is None


def test_a_healthy_batch_is_one_forward() -> None:
    engine, works = ScriptedEngine(), batch(100)
    infer(engine, works)
    assert (engine.forwards, engine.self_tests, rejected(works)) == (1, 0, [])
    assert_right_answers(works)


@pytest.mark.parametrize("culprit", [0, 1, 100, 127, 128, 255])
def test_one_poison_in_256_is_found_in_17_more_forwards_at_most(culprit: int) -> None:
    engine, works, metrics = ScriptedEngine(poison=[culprit]), batch(256), Metrics()
    infer(engine, works, metrics)
    assert rejected(works) == [culprit]
    assert engine.forwards - 1 <= 2 * math.log2(256) + 1
    assert engine.self_tests == 1
    assert metrics.value(m.BISECTIONS) == 8
    assert works[culprit].rejection == Rejection(RejectReason.MODEL_FAILURE, "infer", "ValueError")
    assert_right_answers(works)


@given(st.integers(1, 64), st.sets(st.integers(0, 63), max_size=6), st.sets(st.integers(0, 63), max_size=6))
def test_exactly_the_guilty_are_rejected(count: int, poison: set[int], nan: set[int]) -> None:
    engine, works = ScriptedEngine(poison, nan), batch(count)
    infer(engine, works)
    assert rejected(works) == sorted(number for number in poison | nan if number < count)
    assert engine.forwards <= 1 + len(poison) * 2 * math.ceil(math.log2(max(count, 2))) + 3 * len(nan)
    assert_right_answers(works)


def test_a_row_that_is_no_number_is_rejected_once_it_is_none_alone() -> None:
    engine, works = ScriptedEngine(nan=[3]), batch(8)
    infer(engine, works)
    assert (rejected(works), engine.forwards) == ([3], 4)
    assert works[3].rejection == Rejection(RejectReason.MODEL_FAILURE, "infer", "FloatingPointError")
    assert_right_answers(works)


@pytest.mark.parametrize("fault", [{"poison": [3]}, {"nan": [3]}])
def test_a_device_that_fails_its_self_test_is_at_fault_and_no_record_is(fault: dict[str, Any]) -> None:
    engine, works = ScriptedEngine(**fault, healthy=[False]), batch(8)
    with pytest.raises(DeviceFault):
        infer(engine, works)
    assert rejected(works) == []


def test_every_rejection_asks_the_device_anew() -> None:
    engine, works = ScriptedEngine(nan=[1, 5], healthy=[True, False]), batch(8)
    with pytest.raises(DeviceFault):
        infer(engine, works)
    assert rejected(works) == [1]


def test_a_fault_that_the_device_admits_is_not_searched_for_in_the_batch() -> None:
    engine, works = ScriptedEngine(broken=DeviceFault("gone")), batch(64)
    with pytest.raises(DeviceFault, match="gone"):
        infer(engine, works)
    assert (engine.forwards, rejected(works)) == (1, [])


@given(st.integers(1, 100), st.integers(8, 400))
def test_out_of_memory_halves_the_budget_and_tries_again(count: int, memory: int) -> None:
    engine, works, metrics = ScriptedEngine(memory=memory, budget=4096), batch(count), Metrics()
    infer(engine, works, metrics)
    assert rejected(works) == []
    assert_right_answers(works)
    tries = metrics.value(m.OUT_OF_MEMORY)
    assert engine.token_budget == 4096 // 2**tries
    assert (tries > 0) == (count * 4 > memory)
    assert tries == 0 or engine.token_budget <= memory < 2 * engine.token_budget, "not smaller than it must be"
    assert metrics.value(m.TOKEN_BUDGET) == (engine.token_budget if tries else 0)


def test_out_of_memory_at_the_smallest_budget_is_the_device_s_fault() -> None:
    engine, works = ScriptedEngine(memory=3, budget=64), batch(4)
    with pytest.raises(DeviceFault, match="smallest budget"):
        infer(engine, works)
    assert (rejected(works), engine.forwards) == ([], 4)


def test_poison_is_found_while_memory_is_short() -> None:
    engine, works = ScriptedEngine(poison=[9], memory=40), batch(64)
    infer(engine, works)
    assert rejected(works) == [9]
    assert_right_answers(works)


def test_a_device_without_room_for_its_self_test_is_not_at_fault() -> None:
    engine, works, metrics = ScriptedEngine(poison=[0], memory=40, budget=64), batch(1), Metrics()
    infer(engine, works, metrics)
    assert (rejected(works), engine.token_budget, metrics.value(m.OUT_OF_MEMORY)) == ([0], 32, 1)


def test_rejected_records_and_tombstones_pass_untouched() -> None:
    works = batch(4)
    works[1].tokens, works[1].rejection = None, Rejection(RejectReason.INVALID_TEXT, "decode", "text: blank")
    works[2].tokens, works[2].tombstone = None, "forward"
    engine = ScriptedEngine()
    infer(engine, works)
    assert all(work.model == MODEL for work in works), "a dead letter too names the model"
    assert [work.scores is None for work in works] == [False, True, True, False]
    infer(engine, works[1:3])
    assert engine.forwards == 1, "nothing to compute, nothing computed"


def test_answers_that_are_too_few_are_no_answers() -> None:
    engine, works = ScriptedEngine(), batch(3)
    engine.classify = lambda sequences: np.zeros((2, 2), np.float32)  # type: ignore[method-assign]
    with pytest.raises(ValueError):
        infer(engine, works)


def test_the_budget_is_the_engine_s_own() -> None:
    engine = ScriptedEngine(budget=77)
    stage = InferStage(engine, MODEL, Metrics())
    engine.token_budget = 33
    assert stage.token_budget == 33
