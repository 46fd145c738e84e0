"""Quality of predictions on held-out rows, and of what they must beat. Knows nothing of models, files or stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from schemas.manifest import LabelMetrics, Metrics
from training.dataset import Example

ECE_BINS = 15


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits, both (rows, labels)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def measure(probabilities: np.ndarray, truth: np.ndarray, labels: Sequence[str]) -> Metrics:
    """Metrics of probabilities (rows, labels) against true label indices (rows,)."""
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    every = list(range(len(labels)))
    predicted = probabilities.argmax(axis=1)
    scores = precision_recall_fscore_support(truth, predicted, labels=every, zero_division=0)
    return Metrics(
        accuracy=float(accuracy_score(truth, predicted)),
        macro_f1=float(np.mean(scores[2])),
        per_label={
            label: LabelMetrics(precision=precision, recall=recall, f1=f1, support=support)
            for label, precision, recall, f1, support in zip(labels, *(s.tolist() for s in scores), strict=True)
        },
        ece=expected_calibration_error(probabilities, truth),
        confusion=confusion_matrix(truth, predicted, labels=every).tolist(),
    )


def expected_calibration_error(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Mean distance of confidence from accuracy over bins of equal width, weighted by rows (Naeini et al. 2015)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == truth
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = [abs(float(np.sum(confidence[bins == b]) - np.sum(correct[bins == b]))) for b in range(ECE_BINS)]
    return sum(gaps) / len(truth)


def majority(counts: Sequence[int], truth: np.ndarray) -> dict[str, float]:
    """What always answering the label of most of `counts` would score."""
    from sklearn.metrics import accuracy_score, f1_score

    predicted = np.full_like(truth, int(np.argmax(counts)))
    every = list(range(len(counts)))
    return _brief(accuracy_score(truth, predicted), f1_score(truth, predicted, labels=every, average="macro"))


def bag_of_words(train: Sequence[Example], test: Sequence[Example]) -> dict[str, float]:
    """What logistic regression on TF-IDF of words and word pairs scores, trained on the same rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.pipeline import make_pipeline

    classifier = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=200_000, token_pattern=r"\S+"),
        LogisticRegression(C=10.0, max_iter=300, class_weight="balanced"),
    )
    classifier.fit([example.text for example in train], [example.label for example in train])
    predicted = classifier.predict([example.text for example in test])
    truth = [example.label for example in test]
    return _brief(accuracy_score(truth, predicted), f1_score(truth, predicted, average="macro"))


def _brief(accuracy: Any, macro_f1: Any) -> dict[str, float]:
    return {"accuracy": float(accuracy), "macro_f1": float(macro_f1)}
