"""What keeping freed memory (worker/engine/processor.py) is worth: the same forwards with and without, in turn.

    python tests/benchmarks/memory.py [--rounds 5] [--batches 8] [--budget 4096] [--dtype float32] [--layers 12]

Each way has a process of its own, because malloc's settings hold for a whole process; they take turns, and one waits
while the other runs. Weights are random, in the shape of BERT base. The forward runs on one thread that is not the main
one, as in the worker. The last line of standard output is JSON: medians of the rounds; `gain` is the CPU time without,
over that with.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

LENGTHS = Path(__file__).parents[2] / "worker/tools/review_lengths.json"
WAYS = ("kept", "returned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8, help="different batches of one round")
    parser.add_argument("--budget", type=int, default=4096, help="tokens of one batch")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.way:
        thread = threading.Thread(target=run, args=(arguments,))
        thread.start()
        thread.join()
        return
    command = [sys.executable, __file__, *sys.argv[1:], "--way"]
    ways = {
        way: subprocess.Popen([*command, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for way in WAYS
    }
    rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(arguments.rounds):
        for way, process in ways.items():
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            rounds[way].append(json.loads(process.stdout.readline()))
        print(f"round {number + 1}: " + ", ".join(f"{way} {rounds[way][-1]}" for way in WAYS), file=sys.stderr)
    for process in ways.values():
        process.communicate()
    medians = {
        way: {key: statistics.median(one[key] for one in results) for key in results[0]}
        for way, results in rounds.items()
    }
    gain = medians["returned"]["cpu_ms_a_batch"] / medians["kept"]["cpu_ms_a_batch"]
    print(json.dumps({"gain": round(gain, 3), **medians, "budget": arguments.budget, "dtype": arguments.dtype}))


def run(arguments: argparse.Namespace) -> None:
    """In a process of one way: a round for each line that comes in, its result as a line of JSON."""
    import numpy as np
    import torch

    from worker.engine.attention import Batch
    from worker.engine.bert import PackedBert, random_weights
    from worker.engine.packing import pack, split
    from worker.engine.processor import keep_freed_memory
    from worker.engine.spec import BertSpec

    if arguments.way == "kept" and not keep_freed_memory():
        sys.exit("this malloc cannot be told to keep what is freed")
    torch.set_num_threads(1)
    spec = BertSpec(layers=arguments.layers)
    model = PackedBert(spec, random_weights(spec), torch.device("cpu"), getattr(torch, arguments.dtype))
    counts = json.loads(LENGTHS.read_text())["reviews_of_each_length"]
    random = np.random.default_rng(0)
    lengths = random.permutation([min(int(length), 150) for length, count in counts.items() for _ in range(count)] * 5)
    reviews = [random.integers(1000, spec.vocabulary, length).tolist() for length in lengths]
    parts = islice(split(lengths.tolist(), arguments.budget), arguments.batches)
    batches = [Batch.of(pack(reviews[part])) for part in parts]
    with torch.inference_mode():
        for batch in batches:
            model(batch)
        for _ in sys.stdin:
            faults, begin = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.thread_time()
            for batch in batches:
                model(batch)
            took = time.thread_time() - begin
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
            result = {
                "cpu_ms_a_batch": round(took / len(batches) * 1e3, 1),
                "page_faults": round(faults / len(batches)),
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
