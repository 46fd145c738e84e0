"""The engine's answers beside those of the stock padded model in float32, on real reviews and a fine-tuned checkpoint.

    python tests/benchmarks/equality.py --checkpoint store/reviews@production [--data FILE] [--reviews 2000]

Required: in float32 no probability differs by more than 1e-5 (on a GPU, 1e-4); in lower arithmetic at least 99.5 % of
the labels are the same, and in a floating one every other is of a review whose probability is within 0.02 of the
threshold. Exits 1 otherwise. Int8 (`--dtypes int8`) is calibrated on bundled reviews. The last line of
standard output is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from schemas.recipe import tokenize
from schemas.store import fetch
from tests.benchmarks.peer_runtimes import in_batches, run_torch
from tests.benchmarks.peers import REVIEWS, read_texts, say
from tests.fakes.classifiers import load_engine
from worker.engine import Engine
from worker.engine.tokenizer import load_tokenizer
from worker.settings import EngineSettings

EXACT = {"cpu": 1e-5, "cuda": 1e-4}
AGREES, NEAR = 0.995, 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", default=REVIEWS)
    parser.add_argument("--reviews", type=int, default=2000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = fetch(arguments.checkpoint, Path(temporary))
        recipe = checkpoint.manifest.recipe
        texts = read_texts(arguments.data, arguments.reviews)
        ids = [tokens.ids for tokens in tokenize(load_tokenizer(checkpoint).encode_batch_fast, recipe, texts)]
        from transformers import AutoModelForSequenceClassification

        model = AutoModelForSequenceClassification.from_pretrained(checkpoint.directory, dtype=torch.float32).eval()
        say(f"the padded reference, {len(ids)} reviews")
        logits = in_batches(ids, 32, True, lambda *batch: run_torch(model, *batch))
        expected = torch.from_numpy(logits).softmax(-1).numpy()
        result: dict[str, Any] = {"reviews": len(ids)}
        right = True
        for dtype in arguments.dtypes.split(","):
            engine = load_engine(checkpoint, EngineSettings(device=arguments.device, dtype=dtype, calibration=REVIEWS))
            found = np.concatenate([engine.classify(ids[i : i + 64]) for i in range(0, len(ids), 64)])
            result[dtype] = one = compared(found, expected)
            right &= kept(engine, one)
            say(f"{dtype} on {engine.device}: {result[dtype]}")
    print(json.dumps(result))
    sys.exit(0 if right else 1)


def kept(engine: Engine, one: dict[str, float]) -> bool:
    if engine.dtype == "float32":
        return one["largest_difference"] <= EXACT[engine.device.partition(":")[0]]
    return one["agreement"] >= AGREES and (engine.dtype == "int8" or one["furthest_disagreement"] <= NEAR)


def compared(found: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """How far answers [reviews, labels] are from what they should be.

    A disagreement's distance is by how much the reference's probability of its label exceeds that of the label found,
    halved: with two labels, how far it is from one half.
    """
    rows = np.arange(len(found))
    labels, right = found.argmax(1), expected.argmax(1)
    distance = (expected[rows, right] - expected[rows, labels]) / 2
    return {
        "agreement": float((labels == right).mean()),
        "disagreements": int((labels != right).sum()),
        "furthest_disagreement": float(distance.max()),
        "largest_difference": float(np.abs(found - expected).max()),
    }


if __name__ == "__main__":
    main()
