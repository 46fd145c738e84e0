"""What is decided around the model: order, budget, warm-up, self-test. The model here only adds up."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.engine.budget import FIRST, best_budget, tokens_that_fit
from worker.engine.engine import Engine, fill, made_up_texts
from worker.engine.packing import Packed
from worker.faults import OutOfMemory

LONGEST = 30


class Adder:
    """Probability of the second label: a sum over the sequence's tokens, so that an answer names its question."""

    device, dtype, vocabulary = "cpu", "float32", 1000
    shared_by = 1

    def __init__(self, most_tokens: int = 10_000) -> None:
        self.most_tokens = most_tokens
        self.measured: tuple[int, float] | None = None
        self.batches: list[int] = []
        self.fault: Exception | None = None
        self.drift = 0.0
        self.memory = 10**9

    def __call__(self, packed: Packed) -> npt.NDArray[np.float32]:
        if self.fault is not None:
            raise self.fault
        if packed.tokens > self.memory:
            raise OutOfMemory("full")
        self.batches.append(packed.tokens)
        ends = [*packed.starts[1:], packed.tokens]
        sums = [packed.ids[begin:end].sum() for begin, end in zip(packed.starts, ends, strict=True)]
        second = np.array(sums, np.float32) / (LONGEST * self.vocabulary) + self.drift
        return np.stack([1 - second, second], axis=1)

    def sharers(self, tokens: int) -> int:
        return self.shared_by

    def warm_up(self) -> None: ...
    def close(self) -> None: ...


def engine(forward: Adder, budget: int | None = 100) -> Engine:
    return Engine(forward, ["negative", "positive"], LONGEST, budget)


@given(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=LONGEST), max_size=40))
def test_answers_come_in_the_order_of_the_questions(sequences: list[list[int]]) -> None:
    forward = Adder()
    answers = engine(forward).classify(sequences)
    expected = [sum(sequence) / (LONGEST * 1000) for sequence in sequences]
    assert answers.shape == (len(sequences), 2) and answers.dtype == np.float32
    assert np.allclose(answers[:, 1], expected)
    assert all(tokens <= 100 for tokens in forward.batches)


@pytest.mark.parametrize("sequence", [[], [1] * (LONGEST + 1), [1000], [-1]])
def test_what_the_model_cannot_read_never_reaches_it(sequence: list[int]) -> None:
    forward = Adder()
    with pytest.raises(ValueError):
        engine(forward).classify([sequence])
    assert forward.batches == []


def test_warm_up_runs_the_full_budget_and_self_test_compares_with_it() -> None:
    forward = Adder()
    subject = engine(forward)
    assert not subject.self_test(), "not warm: nothing to compare with"
    subject.warm_up()
    assert 100 - LONGEST < max(forward.batches) <= 100
    assert subject.tokens_per_second > 0 and subject.token_budget == 100
    assert subject.self_test()
    for drift in (0.001, float("nan")):
        forward.drift = drift
        assert not subject.self_test()
    forward.drift, forward.fault = 0.0, RuntimeError("gone")
    assert not subject.self_test()
    forward.fault, forward.memory = None, 50
    with pytest.raises(OutOfMemory):
        subject.self_test()
    assert subject.shrink() and subject.self_test()


def test_engines_of_one_model_measure_it_once() -> None:
    forward = Adder()
    first, second = engine(forward, None), engine(forward, None)
    first.warm_up()
    runs = len(forward.batches)
    second.warm_up()
    assert len(forward.batches) - runs <= 2, "its own answers to the made-up texts"
    assert (second.token_budget, second.tokens_per_second) == (first.token_budget, first.tokens_per_second)


def test_the_rate_of_engines_that_share_a_device_adds_up_to_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_seconds", lambda engine, budget: 0.5)
    forward = Adder()
    forward.shared_by = 4
    subject = engine(forward, 100)
    subject.warm_up()
    assert subject.tokens_per_second == 100 / 0.5 / 4


def test_budget_is_bounded_by_memory_and_by_one_longest_review() -> None:
    assert engine(Adder(most_tokens=60), 100).token_budget == 60
    assert engine(Adder(most_tokens=60), None).token_budget == 60
    assert engine(Adder(), 1).token_budget == LONGEST
    lines: list[str] = []
    Engine(Adder(most_tokens=60), ["a", "b"], LONGEST, 100, lines.append)
    assert "60" in lines[0] and "100" in lines[0]


def test_shrink_halves_down_to_one_longest_review() -> None:
    subject = engine(Adder())
    budgets = []
    while subject.shrink():
        budgets.append(subject.token_budget)
    assert budgets == [50, LONGEST]


def test_out_of_memory_is_the_callers_to_answer() -> None:
    forward = Adder()
    forward.fault = OutOfMemory("full")
    with pytest.raises(OutOfMemory):
        engine(forward).classify([[1]])


@pytest.mark.parametrize("budget", [None, 900])
def test_a_budget_that_does_not_fit_at_warm_up_is_halved(budget: int | None) -> None:
    forward = Adder()
    forward.memory = 300
    subject = engine(forward, budget)
    subject.warm_up()
    assert 150 <= subject.token_budget <= 300 and subject.tokens_per_second > 0
    assert subject.self_test()


def test_a_device_that_holds_no_review_is_refused() -> None:
    forward = Adder()
    forward.memory = 0
    with pytest.raises(OutOfMemory, match="longest review"):
        engine(forward).warm_up()


def test_made_up_texts_are_the_same_at_every_start() -> None:
    texts = made_up_texts(1000, LONGEST)
    assert texts == made_up_texts(1000, LONGEST)
    assert {1, LONGEST} <= set(map(len, texts)) and max(map(max, texts)) < 1000
    assert sum(map(len, fill(texts, 500))) <= 500
    assert len(fill(texts, 1)) == 1


def costs(fixed: float, each: float) -> tuple[Sequence[int], object]:
    tried: list[int] = []

    def seconds(budget: int) -> float:
        tried.append(budget)
        return fixed + each * budget

    return tried, seconds


@pytest.mark.parametrize(
    ("fixed", "each", "expected"),
    [
        (0.0, 1e-3, FIRST),  # a slow device that gains nothing from larger batches
        (0.0001, 1e-7, 16384),  # a fast one whose launches cost as much as a thousand tokens
        (1.0, 1e-3, FIRST),  # larger would be better, but no batch should take that long
    ],
)
def test_budget_doubles_while_that_pays(fixed: float, each: float, expected: int) -> None:
    tried, seconds = costs(fixed, each)
    assert best_budget(seconds, 150, 65_536) == expected  # type: ignore[arg-type]
    assert tried[0] == FIRST


def test_budget_keeps_its_bounds() -> None:
    _, seconds = costs(0.002, 1e-7)
    assert best_budget(seconds, 150, 1000) <= 1000  # type: ignore[arg-type]
    assert best_budget(seconds, 600, 600) == 600  # type: ignore[arg-type]


def test_memory_leaves_room_for_a_second_model_and_its_batches() -> None:
    assert tokens_that_fit(bytes_left=1000, model_bytes=200, bytes_per_token=4, engines=2) == 50
    assert tokens_that_fit(bytes_left=100, model_bytes=200, bytes_per_token=4, engines=1) == 0
    most = tokens_that_fit(bytes_left=1000, model_bytes=200, bytes_per_token=4, engines=1)
    left = 1000 - most * 4 - 200
    assert tokens_that_fit(left, model_bytes=200, bytes_per_token=4, engines=1, later=0) == most, "of the successor"
