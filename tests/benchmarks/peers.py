"""The engine beside other ways to run the same classifier: same texts, one run, taken in turn; medians of the rounds.

    python tests/benchmarks/peers.py --checkpoint store/reviews@production [--data FILE] [--reviews 512] [--rounds 5]

The peers that are not installed are left out, loudly. They are no dependency of this project; to have them, in an
environment of its own:

    python -m venv peers && peers/bin/pip install -e . onnx onnxscript onnxruntime openvino nncf
    peers/bin/python tests/benchmarks/peers.py …

`--random-bert-base` replaces the checkpoint's model by random weights in the shape of BERT base: for speed only, its
labels mean nothing. A peer counts for the ratio when it gives the float32 reference's label for at least 99.5 % of the
texts. The last line of standard output is JSON; `reviews_per_second` is without tokenization, `with_tokenization` with.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from schemas.datafiles import BadRow, read_rows
from schemas.recipe import tokenize
from schemas.store import Checkpoint, CheckpointError, digest, fetch
from tests.benchmarks.peer_runtimes import RUNTIMES, Peer, Sequences, Subject, torch_peers
from worker.engine import load_engines
from worker.engine.device import arithmetic
from worker.engine.packing import split
from worker.engine.processor import cores, keep_freed_memory
from worker.engine.tokenizer import load_tokenizer
from worker.settings import EngineSettings

REPOSITORY = Path(__file__).parents[2]
AGREES = 0.995
REVIEWS = str(REPOSITORY / "training/data/vader_reviews.csv.gz")
OURS = {"ours": "auto", "ours_fp32": "float32", "ours_int8": "int8"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", default=REVIEWS)
    parser.add_argument("--reviews", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="names of peers, separated by commas")
    parser.add_argument("--random-bert-base", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()  # for everybody
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint = fetch(arguments.checkpoint, Path(temporary) / "cache")
        if arguments.random_bert_base:
            checkpoint = random_bert_base(checkpoint, Path(temporary) / "base")
        texts = read_texts(arguments.data, arguments.reviews)
        result = compare(
            checkpoint, texts, arguments.rounds, set(filter(None, arguments.only.split(","))), Path(temporary)
        )
    print(json.dumps(result))


def compare(
    checkpoint: Checkpoint, texts: list[str], rounds: int, only: set[str], temporary: Path
) -> dict[str, object]:
    recipe = checkpoint.manifest.recipe
    encode = load_tokenizer(checkpoint).encode_batch_fast

    def to_ids(texts: list[str]) -> Sequences:
        return [tokens.ids for tokens in tokenize(encode, recipe, texts)]

    ids = to_ids(texts)
    mean = statistics.mean(map(len, ids))
    say(f"{len(texts)} texts of {mean:.1f} tokens on {cores()} cores, {rounds} rounds")
    subject = Subject(checkpoint.directory, recipe.max_length, ids, temporary)
    peers: dict[str, Peer] = {}
    for name, dtype in OURS.items():
        if only and name not in only:
            continue
        try:
            peers[name] = ours(checkpoint, dtype)
        except (CheckpointError, ValueError) as error:
            say(f"REFUSED, left out: {name} ({error})")
    peers |= torch_peers(subject, arithmetic("auto", torch.device("cpu")))
    for runtime in RUNTIMES:
        try:
            peers |= runtime(subject)
        except ImportError as error:
            say(f"NOT INSTALLED, left out: {runtime.__name__} ({error}); see the head of this file")
    peers = {name: peer for name, peer in peers.items() if not only or name in only}
    reference = subject.reference()
    agreement, seconds, whole = {}, {name: [] for name in peers}, {name: [] for name in peers}  # type: ignore[var-annotated]
    for name, peer in peers.items():
        agreement[name] = float((peer.classify(ids) == reference).mean())
        say(f"{name}: agreement {agreement[name]:.4f} ({peer.note})")
    for number in range(rounds):
        for name, peer in peers.items():
            seconds[name].append(timed(lambda peer=peer: peer.classify(ids)))
            from_texts = peer.from_texts or (lambda texts, peer=peer: peer.classify(to_ids(texts)))
            whole[name].append(timed(lambda run=from_texts: run(texts)))
        say(f"round {number + 1}: " + ", ".join(f"{name} {len(ids) / took[-1]:.0f}" for name, took in seconds.items()))
    rates = {name: len(ids) / statistics.median(took) for name, took in seconds.items()}
    for name, rate in sorted(rates.items(), key=lambda item: -item[1]):
        counts = "" if agreement[name] >= AGREES else "   does not count: disagrees too often"
        say(f"{name:18} {rate:9.1f} reviews/s   agreement {agreement[name]:.4f}{counts}")
    return {
        "reviews_per_second": {name: round(rate, 2) for name, rate in rates.items()},
        "with_tokenization": {name: round(len(ids) / statistics.median(took), 2) for name, took in whole.items()},
        "agreement": {name: round(value, 4) for name, value in agreement.items()},
        "rounds": rounds, "reviews": len(texts), "mean_tokens": round(mean, 1), "cores": cores(),
        "notes": {name: peer.note for name, peer in peers.items()}, "torch": torch.__version__,
    }  # fmt: skip


def ours(checkpoint: Checkpoint, dtype: str) -> Peer:
    """The engines of the processor, each taking the next batch as they arrive when it is free, as in the worker."""
    from concurrent.futures import ThreadPoolExecutor

    engines = load_engines(checkpoint, EngineSettings(dtype=dtype, device="cpu", calibration=REVIEWS))  # type: ignore[arg-type]
    for engine in engines:
        engine.warm_up()
    pool = ThreadPoolExecutor(len(engines))

    def classify(ids: Sequences) -> np.ndarray:
        labels = np.empty(len(ids), np.int64)
        parts = iter(split([len(sequence) for sequence in ids], engines[0].token_budget))

        def run(engine: object) -> None:
            while (part := next(parts, None)) is not None:  # one step of an iterator is atomic
                labels[part] = engine.classify(ids[part]).argmax(1)  # type: ignore[attr-defined]

        list(pool.map(run, engines))
        return labels

    return Peer(classify, f"{engines[0].dtype} in batches of {engines[0].token_budget} tokens, {len(engines)} engines")


def random_bert_base(checkpoint: Checkpoint, directory: Path) -> Checkpoint:
    """A model of BERT base's shape with random weights under the checkpoint's tokenizer."""
    import shutil

    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    vocabulary = json.loads((checkpoint.directory / "config.json").read_text())["vocab_size"]
    BertForSequenceClassification(BertConfig(vocab_size=vocabulary)).save_pretrained(directory)
    shutil.copy(checkpoint.directory / "tokenizer.json", directory)
    files = {path.name: digest(path) for path in directory.iterdir()}
    return Checkpoint(directory, checkpoint.manifest.model_copy(update={"files": files}))


def read_texts(path: str, count: int) -> list[str]:
    """Texts from all over the file, in its order."""
    texts = [str(row.values["text"]) for row in read_rows(path) if not isinstance(row, BadRow) and row.values["text"]]
    return texts[:: max(1, len(texts) // count)][:count]


def timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
