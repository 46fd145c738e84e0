"""The simulated model: its rate, and answers that name their question."""

import numpy as np
import pytest

from worker.engine.simulated import TOKENS_PER_SECOND, SimulatedEngine, probability


def test_answers_are_checksums_of_the_tokens() -> None:
    answers = SimulatedEngine(["a", "b", "c"], "simulated", None).classify([[1, 2], [3]])
    assert np.allclose(answers.sum(axis=1), 1) and answers[:, 2].tolist() == pytest.approx(
        [probability([1, 2]), probability([3])]
    )


@pytest.mark.parametrize(("device", "rate"), [("simulated", TOKENS_PER_SECOND), ("simulated:1e4", 1e4)])
def test_its_rate_is_the_devices_name(device: str, rate: float) -> None:
    assert SimulatedEngine(["a", "b"], device, 100).tokens_per_second == rate


@pytest.mark.parametrize(
    "device", ["simulated:-5", "simulated:0", "simulated:nan", "simulated:inf", "simulated:x", "simulatedX"]
)
def test_what_is_no_rate_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="expected simulated:TOKENS_PER_SECOND"):
        SimulatedEngine(["a", "b"], device, None)
