"""Made-up rated reviews that a tiny model learns in seconds, and a `review-train fit` on them."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

GOOD = ["great", "lovely", "superb", "pretty", "comfy"]
BAD = ["awful", "ugly", "broken", "cheap", "scratchy"]
THINGS = ["dress", "shirt", "film", "player", "skirt", "story", "camera"]
Command = Callable[..., tuple[int, dict[str, Any], str]]


def reviews(count: int) -> list[dict[str, Any]]:
    """Reviews of which three in ten are bad; one rating in eight says the opposite of its text, some are 3."""
    chance = random.Random(1)
    rows = []
    for number in range(count):
        bad = chance.random() < 0.3
        rating = 3 if number % 11 == 0 else chance.choice([1, 2] if bad != (chance.random() < 0.125) else [4, 5])
        text = f"{chance.choice(BAD if bad else GOOD)} {chance.choice(THINGS)} number {number}"
        rows.append({"text": text, "rating": rating, "product": number % 40})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def fit_arguments(name: str, *more: str) -> list[str]:
    arguments = [
        "fit",
        "--data",
        "train.csv",
        "--test-data",
        "held-out.csv",
        "--base-model",
        "base",
        "--store",
        "store",
    ]
    arguments += ["--name", name, "--max-length", "32", "--split", "80/20/0", "--work-dir", "work"]
    return [*arguments, "--recipe", "fast", "--epochs", "3", "--learning-rate", "5e-3", *more]
