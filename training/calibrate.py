"""Calibration by maximum likelihood, one temperature and one bias a class. Knows nothing of models but their logits.

Temperature scaling is Guo et al. (2017); the biases also undo the shift of class odds that oversampling causes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.metrics import softmax


@dataclass(frozen=True, slots=True)
class Calibration:
    """Served logits are `logits / temperature + bias`."""

    temperature: float
    bias: tuple[float, ...]

    def apply(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated logits of logits, both (rows, labels)."""
        calibrated: np.ndarray = logits / self.temperature + np.asarray(self.bias)
        return calibrated


def negative_log_likelihood(logits: np.ndarray, truth: np.ndarray) -> float:
    """Mean over rows, in nats; logits (rows, labels), truth (rows,)."""
    probabilities = softmax(logits.astype(np.float64))[np.arange(len(truth)), truth]
    return float(-np.log(np.maximum(probabilities, 1e-300)).mean())


def calibrate(logits: np.ndarray, truth: np.ndarray) -> Calibration:
    """The calibration that makes validation labels most likely, or none where it would make them less so.

    Targets are Platt's (1999), (n + 1) / (n + 2) for the true class of n rows instead of 1, so that a classifier
    without a mistake on a small validation set does not become infinitely sure. The problem is convex.
    """
    from scipy.optimize import minimize

    logits = logits.astype(np.float64)
    rows, labels = logits.shape
    sure = (np.bincount(truth, minlength=labels) + 1) / (np.bincount(truth, minlength=labels) + 2)
    targets = np.repeat(((1 - sure[truth]) / (labels - 1))[:, None], labels, axis=1)
    targets[np.arange(rows), truth] = sure[truth]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        scale, bias = parameters[0], parameters[1:]
        probabilities = softmax(scale * logits + bias)
        difference = (probabilities - targets) / rows
        value = -(targets * np.log(np.maximum(probabilities, 1e-300))).sum() / rows
        return value, np.concatenate([[(difference * logits).sum()], difference.sum(axis=0)])

    start = np.concatenate([[1.0], np.zeros(labels)])
    bounds = [(0.01, 100.0), *[(None, None)] * labels]
    scale, *bias = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    found = Calibration(1 / float(scale), tuple(float(value) for value in np.asarray(bias) - np.mean(bias)))
    none = Calibration(1.0, (0.0,) * labels)
    better = negative_log_likelihood(found.apply(logits), truth) < negative_log_likelihood(logits, truth)
    return found if better else none
