"""Which examples train, validate and test, and which are repeated. Knows nothing of files, tokens or models."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence

from training.dataset import Example
from training.errors import InputError


def parse_split(text: str) -> tuple[float, float, float]:
    """Shares of `90/5/5`: training, validation, test."""
    try:
        train, validation, test = (float(part) for part in text.split("/"))
    except ValueError:
        train = validation = test = -1.0
    if min(train, validation) <= 0 or test < 0 or round(train + validation + test, 6) != 100:
        raise InputError(f"--split {text}: expected three shares that add up to 100, such as 90/5/5")
    return train, validation, test


def split(examples: Sequence[Example], shares: Sequence[float], seed: int) -> list[list[Example]]:
    """Examples in one part for each share, each part with the labels in proportion.

    Examples of one group, and examples of the same text, always stay together. Largest first, each such bundle goes to
    the part where it adds least to the chi-square distance from the parts' proportional class counts.
    """
    labels = max(example.label for example in examples) + 1
    totals = [0] * labels
    for example in examples:
        totals[example.label] += 1
    wanted = [[max(total * share / sum(shares), 1e-9) for total in totals] for share in shares]
    have = [[0] * labels for _ in shares]
    parts: list[list[int]] = [[] for _ in shares]
    bundles = _bundles(examples)
    random.Random(seed).shuffle(bundles)
    bundles.sort(key=len, reverse=True)
    for bundle in bundles:
        counts: dict[int, int] = defaultdict(int)
        for index in bundle:
            counts[examples[index].label] += 1

        def added(part: int, counts: dict[int, int] = counts) -> float:
            return sum(n * (2 * (have[part][c] - wanted[part][c]) + n) / wanted[part][c] for c, n in counts.items())

        best = min(range(len(shares)), key=added)
        parts[best] += bundle
        for label, count in counts.items():
            have[best][label] += count
    return [[examples[index] for index in sorted(part)] for part in parts]


def require_every_label(parts: Mapping[str, Sequence[Example]], labels: Sequence[str]) -> None:
    """InputError where a part lacks a label altogether: nothing could be learned or measured for it."""
    for part, examples in parts.items():
        if missing := set(range(len(labels))) - {example.label for example in examples}:
            names = ", ".join(labels[index] for index in sorted(missing))
            raise InputError(
                f"too few rows: the {part} part ({len(examples)} rows) has none labelled {names}; "
                "give more data, a larger --split, or a --group-column with more groups"
            )


def oversample(examples: Sequence[Example], seed: int) -> list[Example]:
    """All examples, those of smaller classes repeated until every class has as many as the largest."""
    classes: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        classes[example.label].append(example)
    largest = max(map(len, classes.values()))
    chooser = random.Random(seed)
    result = list(examples)
    for members in classes.values():
        whole, rest = divmod(largest - len(members), len(members))
        result += members * whole + chooser.sample(members, rest)
    return result


def same_text(text: str) -> str:
    """A key that is equal for texts that differ only in case and white space."""
    return " ".join(text.casefold().split())


def _bundles(examples: Sequence[Example]) -> list[list[int]]:
    """Indices of examples that share a group or a text, directly or through others (union-find)."""
    parent = list(range(len(examples)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first: dict[tuple[str, str], int] = {}
    for index, example in enumerate(examples):
        keys = [("text", same_text(example.text))]
        if example.group is not None:
            keys.append(("group", example.group))
        for key in keys:
            parent[root(index)] = root(first.setdefault(key, index))
    bundles: dict[int, list[int]] = defaultdict(list)
    for index in range(len(examples)):
        bundles[root(index)].append(index)
    return list(bundles.values())
