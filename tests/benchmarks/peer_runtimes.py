"""The other ways to run the classifier, each set up as it is fastest: sorted input, the best of several batch sizes.

Knows nothing of our engine. Every peer gives the label of each sequence of token ids, in the order it got them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worker.engine.processor import cores

Sequences = list[list[int]]
SIZES = (8, 16, 32, 64)
NOTEBOOK_BATCH, PIPELINE_BATCH = 16, 32
TRIED = 128  # texts on which the best batch size is found


@dataclass
class Peer:
    classify: Callable[[Sequences], np.ndarray]
    note: str
    from_texts: Callable[[list[str]], object] | None = None


@dataclass
class Subject:
    """What is measured: a model's directory and the texts."""

    directory: Path
    longest: int
    ids: Sequences
    temporary: Path

    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        from transformers import AutoModelForSequenceClassification

        return AutoModelForSequenceClassification.from_pretrained(self.directory, dtype=dtype).eval()

    def reference(self) -> np.ndarray:
        """Labels of the padded float32 model."""
        model = self.model()
        return in_batches(self.ids, 32, True, lambda *batch: run_torch(model, *batch)).argmax(1)

    @cached_property
    def onnx(self) -> Path:
        """The model as a graph. The older exporter's graph ran faster in both runtimes than the newer one's."""
        path = self.temporary / "model.onnx"

        class Logits(torch.nn.Module):
            def __init__(self, model: Any) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
                return logits

        ids, mask = padded([[101] * 16, [101] * 9])  # padding in the example, or the graph would have no mask
        torch.onnx.export(
            Logits(self.model()).eval(), (torch.from_numpy(ids), torch.from_numpy(mask)), str(path), dynamo=False,
            input_names=["input_ids", "attention_mask"], output_names=["logits"], opset_version=17,
            dynamic_axes={name: {0: "batch", 1: "tokens"} for name in ("input_ids", "attention_mask")},
        )  # fmt: skip
        return path


def padded(batch: Sequences, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    width = width or max(map(len, batch))
    mask = np.arange(width) < np.array([[len(sequence)] for sequence in batch])
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = np.concatenate(batch)
    return ids, mask.astype(np.int64)


def batches(ids: Sequences, size: int, sort: bool) -> Iterator[list[int]]:
    """Numbers of the texts of each batch; sorted longest first."""
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i])) if sort else list(range(len(ids)))
    for first in range(0, len(order), size):
        yield order[first : first + size]


def in_batches(ids: Sequences, size: int, sort: bool, run: Any, width: int | None = None) -> np.ndarray:
    """What `run` gives for each sequence, in their order, over padded batches."""
    results: list[Any] = [None] * len(ids)
    for indexes in batches(ids, size, sort):
        for index, row in zip(indexes, run(*padded([ids[i] for i in indexes], width)), strict=True):
            results[index] = row
    return np.stack(results)


def run_torch(model: Any, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    torch.set_num_threads(cores())
    with torch.inference_mode():
        logits = model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
    return np.asarray(logits.float().numpy())


def best(name: str, ids: Sequences, candidates: dict[str, Callable[[Sequences], np.ndarray]]) -> Peer:
    """The candidate that classifies some of the texts fastest, once warm."""
    some = ids[:: max(1, len(ids) // TRIED)]
    took = {}
    for note, classify in candidates.items():
        classify(some)
        begin = time.perf_counter()
        classify(some)
        took[note] = time.perf_counter() - begin
    chosen = min(took, key=lambda note: took[note])
    tried = ", ".join(f"{note} {len(some) / seconds:.0f}/s" for note, seconds in took.items())
    print(f"{name}: tried {tried}", file=sys.stderr, flush=True)
    candidates[chosen](ids)  # every shape once, so that none is compiled while the clock runs
    return Peer(candidates[chosen], chosen)


def torch_peers(subject: Subject, native: torch.dtype) -> dict[str, Peer]:
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(subject.directory)
    model, low = subject.model(), subject.model(native)
    pipe = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")

    def through_pipeline(texts: list[str]) -> object:
        torch.set_num_threads(cores())
        return pipe(texts, batch_size=PIPELINE_BATCH, truncation=True, max_length=subject.longest)

    def through_notebook(texts: list[str]) -> None:
        for first in range(0, len(texts), NOTEBOOK_BATCH):
            options = {"padding": "max_length", "truncation": True, "max_length": subject.longest}
            encoded = tokenizer(texts[first : first + NOTEBOOK_BATCH], return_tensors="np", **options)
            run_torch(model, encoded["input_ids"], encoded["attention_mask"])

    def batched(run: Any, size: int, sort: bool, width: int | None = None) -> Callable[[Sequences], np.ndarray]:
        return lambda ids: in_batches(ids, size, sort, run, width).argmax(1)

    def float32(*batch: np.ndarray) -> np.ndarray:
        return run_torch(model, *batch)

    def lower(*batch: np.ndarray) -> np.ndarray:
        return run_torch(low, *batch)

    notebook = batched(float32, NOTEBOOK_BATCH, False, subject.longest)
    in_order = batched(float32, PIPELINE_BATCH, False)
    kind = str(native).removeprefix("torch.")
    return {
        "notebook": Peer(notebook, f"padded to {subject.longest}, batches of {NOTEBOOK_BATCH}", through_notebook),
        "pipeline": Peer(in_order, f"transformers, batches of {PIPELINE_BATCH} as they come", through_pipeline),
        "sorted_fp32": best("sorted_fp32", subject.ids, {f"batches of {n}": batched(float32, n, True) for n in SIZES}),
        "sorted_native": best(
            "sorted_native", subject.ids, {f"{kind}, batches of {n}": batched(lower, n, True) for n in SIZES}
        ),
    }


def onnxruntime(subject: Subject) -> dict[str, Peer]:
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    int8 = subject.temporary / "int8.onnx"
    quantize_dynamic(str(subject.onnx), str(int8), weight_type=QuantType.QInt8, per_channel=True)

    def peer(name: str, path: Path) -> Peer:
        options = ort.SessionOptions()
        options.intra_op_num_threads = cores()
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def run(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
            return np.asarray(session.run(None, {"input_ids": ids, "attention_mask": mask})[0])

        sizes = {f"batches of {n}": lambda ids, n=n: in_batches(ids, n, True, run).argmax(1) for n in SIZES}
        return best(name, subject.ids, sizes)

    return {
        "onnxruntime_fp32": peer("onnxruntime_fp32", subject.onnx),
        "onnxruntime_int8": peer("onnxruntime_int8", int8),
    }


def openvino(subject: Subject) -> dict[str, Peer]:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(str(subject.onnx))
    variants = {
        "openvino_fp32": (model, {"INFERENCE_PRECISION_HINT": "f32"}),
        "openvino_default": (model, {}),
    }
    try:
        import nncf

        some = [padded([sequence]) for sequence in subject.ids[:300]]
        inputs = nncf.Dataset([{"input_ids": ids, "attention_mask": mask} for ids, mask in some])
        quantized = nncf.quantize(core.read_model(str(subject.onnx)), inputs, model_type=nncf.ModelType.TRANSFORMER)
        variants["openvino_int8"] = (quantized, {})
    except ImportError as error:
        print(f"NOT INSTALLED, left out: openvino_int8 ({error})", file=sys.stderr)
    return {name: _openvino(name, subject, core, *variant) for name, variant in variants.items()}


def _openvino(name: str, subject: Subject, core: Any, model: Any, config: dict[str, str]) -> Peer:
    import openvino as ov

    candidates: dict[str, Callable[[Sequences], np.ndarray]] = {}
    threads = {"INFERENCE_NUM_THREADS": cores()}
    for hint in ("LATENCY", "THROUGHPUT"):
        compiled = core.compile_model(model, "CPU", {**config, **threads, "PERFORMANCE_HINT": hint})
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        for size in SIZES:

            def classify(ids: Sequences, compiled: Any = compiled, size: int = size) -> np.ndarray:
                labels = np.empty(len(ids), np.int64)
                queue = ov.AsyncInferQueue(compiled)
                queue.set_callback(
                    lambda request, indexes: labels.__setitem__(indexes, request.get_output_tensor().data.argmax(-1))
                )
                for indexes in batches(ids, size, True):
                    batch, mask = padded([ids[i] for i in indexes])
                    queue.start_async({"input_ids": batch, "attention_mask": mask}, indexes)
                queue.wait_all()
                return labels

            candidates[f"{precision}, {hint.lower()}, batches of {size}"] = classify
    return best(name, subject.ids, candidates)


RUNTIMES: tuple[Callable[[Subject], dict[str, Peer]], ...] = (onnxruntime, openvino)
