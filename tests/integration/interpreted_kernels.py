"""The GPU's kernels by Triton's interpreter; test_engine_kernels.py runs this with TRITON_INTERPRET=1."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from tests.fakes.classifiers import LONGEST, load_engine, make_checkpoint, reference, reviews
from worker.engine import attention, bert, kernels, linear
from worker.engine.attention import Batch
from worker.engine.packing import Slots, pack
from worker.settings import EngineSettings

CPU = torch.device("cpu")
NEAR = {"float32": 1e-5, "float16": 0.02}
MODELS = ["Bert", "Roberta", "Electra", "DistilBert"]


def the_kernels_answers_are_right() -> None:
    assert kernels.problem(CPU, torch.float32) is None  # the interpreter has no products in bfloat16


def gelu_is_as_near_as_it_says() -> None:
    x = torch.linspace(-12, 12, 8192)[:, None].expand(-1, 64).contiguous()
    found = kernels.linear_gelu(x, torch.eye(64).repeat(4, 1), torch.zeros(256))
    assert (found - F.gelu(x).repeat(1, 4)).abs().max() < 2.7e-5


def attention_stays_within_each_sequence() -> None:
    lengths = torch.tensor([1, 150, 64, 65, 3, 128, 7, 7, 7, 7, 1, 1])
    offsets = torch.cat([torch.zeros(1), lengths.cumsum(0)]).int()
    rows = int(offsets[-1]) + 5
    own = torch.arange(rows)
    begins, ends = (
        torch.cat([side.repeat_interleave(lengths), own[-5:] + behind]).int()
        for side, behind in ((offsets[:-1], 0), (offsets[1:], 1))
    )
    mask = (own >= begins[:, None]) & (own < ends[:, None])
    rows_first, heads_first = (0, 1, 2, 3), (0, 2, 1, 3)
    for layout, size in ((rows_first, 64), (heads_first, 64), (rows_first, 26)):
        shape = [(3, rows, 2, size)[dimension] for dimension in layout]
        q, k, v = torch.randn(shape).permute(layout)
        expected = F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in (q, k, v)), mask).transpose(0, 1)
        assert (kernels.attention(q, k, v, begins, ends) - expected).abs().max() < 1e-5
        first = kernels.attention(q[offsets[:-1]], k, v, offsets[:-1], offsets[1:])
        assert (first - expected[offsets[:-1]]).abs().max() < 1e-5


def models_answer_as_padded(folder: Path) -> None:
    slots = Slots(64, 8)
    numbers = torch.empty(slots.size, dtype=torch.int32)
    for name, dtype in [*((name, "float32") for name in MODELS), ("Bert", "float16")]:  # no bfloat16 in the interpreter
        checkpoint = make_checkpoint(folder / f"{name} {dtype}", name)
        engine: Any = load_engine(checkpoint, EngineSettings(device="cpu", dtype=dtype, token_budget=256))
        for lengths in ([LONGEST, 1, 17], [3, 3, 3]):
            packed = pack(reviews(lengths))
            slots.fill(numbers.numpy(), packed)
            found = engine._forward._model(Batch.of_slots(slots, numbers, LONGEST)).numpy()[: len(lengths)]
            expected = reference(checkpoint.directory, reviews(lengths))[packed.order]
            assert np.abs(found - expected).max() < NEAR[dtype], f"{name} {dtype} {lengths}"


def main() -> None:
    cuda: Any = torch.cuda
    cuda.get_device_capability = lambda device: (9, 0)
    cuda.get_device_properties = lambda device: SimpleNamespace(multi_processor_count=4)
    modules: list[Any] = [attention, bert, linear]
    for module in modules:
        module.gpu_kernels = lambda device: kernels
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        the_kernels_answers_are_right()
        gelu_is_as_near_as_it_says()
        attention_stays_within_each_sequence()
        models_answer_as_padded(Path(folder))


if __name__ == "__main__":
    main()
