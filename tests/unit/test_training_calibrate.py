"""Calibration and the metrics that judge it, on made-up logits whose true probabilities are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.calibrate import Calibration, calibrate, negative_log_likelihood
from training.metrics import expected_calibration_error, majority, measure, softmax


def sample(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are exactly calibrated, and labels drawn from them."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 2)) * 2
    return logits, (random.random(rows) < softmax(logits)[:, 1]).astype(int)


def test_an_overconfident_shifted_classifier_is_put_right() -> None:
    logits, truth = sample(20_000)
    found = calibrate(logits * 3 + np.array([1.2, -1.2]), truth)
    assert found.temperature == pytest.approx(3, rel=0.05)
    assert found.bias == pytest.approx((-0.4, 0.4), abs=0.05)
    served = softmax(found.apply(logits * 3 + np.array([1.2, -1.2])))
    assert np.abs(served - softmax(logits)).max() < 0.03
    assert expected_calibration_error(served, truth) < 0.015


def test_oversampling_is_undone() -> None:
    """A classifier trained as if both classes were as frequent learns the right odds back."""
    random = np.random.default_rng(1)
    truth = (random.random(40_000) < 0.9).astype(int)
    evidence = random.normal(size=len(truth)) + truth
    balanced = np.stack([np.zeros_like(evidence), evidence - 0.5], axis=1)  # log odds with even classes
    bias = calibrate(balanced, truth).bias
    assert bias[1] - bias[0] == pytest.approx(np.log(9), abs=0.1)


@given(st.integers(2, 60), st.integers(0, 1000), st.floats(0.01, 100))
@settings(deadline=None, max_examples=60)
def test_validation_is_never_worse(rows: int, seed: int, scale: float) -> None:
    logits, truth = sample(rows, seed)
    before = negative_log_likelihood(logits * scale, truth)
    assert negative_log_likelihood(calibrate(logits * scale, truth).apply(logits * scale), truth) <= before


def test_no_mistake_on_few_rows_does_not_mean_certainty() -> None:
    truth = np.array([0, 1] * 10)
    logits = np.stack([1.0 - truth, truth * 1.0], axis=1)
    sure = softmax(calibrate(logits, truth).apply(logits)).max()
    assert sure == pytest.approx(11 / 12, abs=0.01)  # Platt's (n + 1) / (n + 2)


def test_metrics_of_a_small_case() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.2, 0.8]])
    found = measure(probabilities, np.array([0, 1, 1, 1]), ["no", "yes"])
    assert found.accuracy == 0.75 and found.confusion == [[1, 0], [1, 2]]
    assert found.per_label["no"].model_dump() == pytest.approx(
        {"precision": 0.5, "recall": 1, "f1": 2 / 3, "support": 1}
    )
    assert found.per_label["yes"].model_dump() == pytest.approx(
        {"precision": 1, "recall": 2 / 3, "f1": 0.8, "support": 3}
    )
    assert found.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert found.ece == pytest.approx((0.1 + 0.6 + 0.3 + 0.2) / 4)


def test_the_majority_scores_its_share() -> None:
    assert majority([1, 9], np.array([1, 1, 0])) == pytest.approx({"accuracy": 2 / 3, "macro_f1": 0.4})


def test_huge_logits_do_not_overflow() -> None:
    assert softmax(np.array([[-1e4, 1e4]])).tolist() == [[0, 1]]
    assert np.isfinite(negative_log_likelihood(np.array([[-1e4, 1e4]]), np.array([0])))
    assert Calibration(2.0, (1.0, -1.0)).apply(np.array([[2.0, 4.0]])).tolist() == [[2.0, 1.0]]
