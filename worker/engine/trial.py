"""In which form a stock model serves: packed, padded, or only equal lengths together. Found by trying, at load.

Which classes play along with packing, with padding, or with an arithmetic is not looked up: lists go stale, and a model
that pads wrongly says nothing of it. The measure is what each of some made-up texts gives when it runs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from schemas.store import CheckpointError
from worker.engine.attention import Batch, Model
from worker.engine.device import dtype_name, translated_faults
from worker.engine.engine import made_up_texts
from worker.engine.packing import Packed, pack
from worker.engine.stock import PackedStock, PaddedStock, load_stock, said
from worker.faults import DeviceFault, OutOfMemory

T = TypeVar("T")
Probabilities = npt.NDArray[np.float32]
Run = Callable[[Model, torch.dtype, Packed], Probabilities]
"""A placed model's answers on its device."""

SAME, SAME_LOG = 1e-5, 1e-3
"""Largest differences, in float32, of probabilities and of their logarithms at which a form answers as each text does
alone. The latter tell where a model is sure of everything."""
NOISE, SLACK = 2.0, 0.02
"""In lower arithmetic packed may be so many times as far from float32 as unpacked is, and this much, by rounding."""
TWICE = 4
"""How many of the shortest texts come twice: equal lengths share a batch in every form."""


@torch.inference_mode()
def stock_model(
    directory: Path, longest: int, device: torch.device, dtype: torch.dtype, run: Run, progress: Callable[[str], None]
) -> tuple[Model, torch.dtype]:
    """The model on its device, and the arithmetic it is in: float32 where it cannot run, or has no numbers, in `dtype`.

    CheckpointError where it can classify neither `longest` tokens nor texts of one length together; OutOfMemory,
    DeviceFault.
    """
    stock: Any = load_stock(directory)
    kind = stock.config.model_type
    texts = made_up_texts(stock.config.vocab_size, longest)
    packed = pack(texts + texts[:TWICE])
    batch = Batch.of(packed)

    def each_alone() -> Probabilities:
        alone = [PaddedStock(stock)(Batch.of(pack([text]))).numpy() for text in texts]
        return np.concatenate(alone)[packed.order % len(texts)]

    alone = _answers(each_alone)
    if isinstance(alone, str):
        raise CheckpointError(f"{directory}: cannot classify {longest} tokens ({alone})")
    together = _unlike(_answers(lambda: PaddedStock(stock)(batch).numpy()), alone) is None
    if not together and (
        problem := _unlike(_answers(lambda: PaddedStock(stock, together=False)(batch).numpy()), alone)
    ):
        raise CheckpointError(f"{directory}: cannot classify texts of one length together ({problem})")

    unpacked = PaddedStock(stock.to(device, dtype), together)
    answers = _answers(lambda: run(unpacked, dtype, packed))
    if isinstance(answers, str) and dtype != torch.float32:
        progress(f"{kind} cannot run in {dtype_name(dtype)} ({answers}): float32")
        dtype = torch.float32
        unpacked = PaddedStock(load_stock(directory).to(device), together)
        answers = _answers(lambda: run(unpacked, dtype, packed))
    if isinstance(answers, str):
        raise CheckpointError(f"{directory}: cannot run on {device} ({answers})")
    noise = float(np.abs(answers - alone).max())

    def as_packed() -> PackedStock:
        model = PackedStock(load_stock(directory))
        if problem := _unlike(model(batch).numpy(), alone):
            raise ValueError(problem)
        model.place(dtype, device)
        if (off := float(np.abs(run(model, dtype, packed) - alone).max())) <= NOISE * noise + SLACK:
            return model
        raise ValueError(f"answers differ by {off:.1g} in {dtype_name(dtype)}")

    if not isinstance(found := _tried(as_packed), str):
        return found, dtype
    how = "padded, in batches of similar length" if together else "only equal lengths together: padding changes it"
    progress(f"{kind} cannot run packed ({found}): {how}")
    return unpacked, dtype


def _unlike(found: Probabilities | str, expected: Probabilities) -> str | None:
    if isinstance(found, str):
        return found
    difference = np.abs(found - expected).max()
    logarithms = np.abs(np.log(found.clip(1e-30)) - np.log(expected.clip(1e-30))).max()
    return None if difference <= SAME and logarithms <= SAME_LOG else f"answers differ by {difference:.1g}"


def _answers(work: Callable[[], Probabilities]) -> Probabilities | str:
    found = _tried(work)
    return found if isinstance(found, str) or np.isfinite(found).all() else "its answers are no numbers"


def _tried(work: Callable[[], T]) -> T | str:
    """What it gives, or what classes say that were never made for this. OutOfMemory, DeviceFault."""
    try:
        with translated_faults():
            return work()
    except (OutOfMemory, DeviceFault):
        raise
    except Exception as error:
        return said(error)
