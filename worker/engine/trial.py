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
from worker.engine.stock import PackedStock, PaddedStock, load_stock
from worker.faults import DeviceFault, OutOfMemory

T = TypeVar("T")
Probabilities = npt.NDArray[np.float32]
Run = Callable[[Model, torch.dtype, Packed], Probabilities]
"""A placed model's answers on its device."""

SAME = 1e-5
"""Largest difference of a probability, in float32, at which a form answers as each text alone."""
NOISE, SLACK = 2.0, 0.02
"""In lower arithmetic packed may be so many times as far from float32 as unpacked, and this much: a wrong kernel is
further off."""


@torch.inference_mode()
def stock_model(
    directory: Path, longest: int, device: torch.device, dtype: torch.dtype, run: Run, progress: Callable[[str], None]
) -> tuple[Model, torch.dtype]:
    """The model on its device, and the arithmetic it is in: float32 where it cannot run, or has no numbers, in `dtype`.

    CheckpointError where it cannot classify `longest` tokens; OutOfMemory, DeviceFault.
    """
    stock: Any = load_stock(directory)
    kind = stock.config.model_type
    texts = pack(made_up_texts(stock.config.vocab_size, longest))
    batch = Batch.of(texts)
    alone = _tried(lambda: PaddedStock(stock, together=False)(batch).numpy())
    if isinstance(alone, str):
        raise CheckpointError(f"{directory}: cannot classify {longest} tokens ({alone})")
    together = _unlike(_tried(lambda: PaddedStock(stock)(batch).numpy()), alone, SAME) is None

    unpacked = PaddedStock(stock.to(device, dtype), together)
    answers = _tried(lambda: run(unpacked, dtype, texts))
    if isinstance(answers, str) or not np.isfinite(answers).all():
        problem = answers if isinstance(answers, str) else "no numbers"
        progress(f"{kind} cannot run in {dtype_name(dtype)} ({problem}): float32")
        dtype = torch.float32
        unpacked = PaddedStock(load_stock(directory).to(device), together)
        answers = run(unpacked, dtype, texts)

    def packed() -> PackedStock:
        model = PackedStock(load_stock(directory))
        if problem := _unlike(model(batch).numpy(), alone, SAME):
            raise _Unlike(problem)
        model.place(dtype, device)
        if problem := _unlike(run(model, dtype, texts), alone, NOISE * float(np.abs(answers - alone).max()) + SLACK):
            raise _Unlike(problem)
        return model

    if not isinstance(found := _tried(packed), str):
        return found, dtype
    how = "padded, in batches of similar length" if together else "only equal lengths together: padding changes it"
    progress(f"{kind} cannot run packed ({found}): {how}")
    return unpacked, dtype


class _Unlike(Exception):
    """Answers are too far from what they should be."""


def _unlike(found: Probabilities | str, expected: Probabilities, most: float) -> str | None:
    if isinstance(found, str):
        return found
    difference = np.abs(found - expected).max()
    return None if difference <= most else f"answers differ by {difference:.1g}"


def _tried(work: Callable[[], T]) -> T | str:
    """What it gives, or what classes say that were never made for this. OutOfMemory, DeviceFault."""
    try:
        with translated_faults():
            return work()
    except (OutOfMemory, DeviceFault):
        raise
    except _Unlike as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}".partition("\n")[0]
