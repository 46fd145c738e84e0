"""From a verified checkpoint and the settings to engines: which device, which arithmetic, which model.

Knows how the parts fit together and nothing of what they do.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from schemas.store import WEIGHTS, Checkpoint, CheckpointError
from worker.engine.attention import Model
from worker.engine.bert import PackedBert
from worker.engine.budget import tokens_that_fit
from worker.engine.calibration import int8_model
from worker.engine.cpu import CpuForward
from worker.engine.device import arithmetic, devices, dtype_name, translated_faults
from worker.engine.engine import Engine, Forward
from worker.engine.packing import Packed
from worker.engine.processor import Cores, cores, keep_freed_memory, memory_left
from worker.engine.spec import BertSpec, bert_spec, head_problem
from worker.faults import OutOfMemory
from worker.settings import EngineSettings

Progress = Callable[[str], None]
STOCK_COPIES, INT8_COPIES = 3, 4
"""How often a model is in memory while it loads: stock ones unpacked, packed, and as products want them; int8 has the
file, float32 to compare with, its own, and some to compute in."""
UNCOUNTED = 1.5


def load_engines(
    checkpoint: Checkpoint, settings: EngineSettings, *, progress: Progress = lambda line: None, successor: bool = False
) -> list[Engine]:
    """The engines of every device that the settings name, not yet warm: one a core of the processor, two a GPU.

    Those of a device share one model; each is to be called by a thread of its own. They leave room for a successor,
    which is loaded beside them and leaves none. CheckpointError where the checkpoint is no classifier that can be
    served or does not fit beside what is loaded already; ValueError where the settings name a device or arithmetic that
    there is not.
    """
    return [
        engine
        for device in devices(settings.device)
        for engine in _on(device, checkpoint, settings, progress, successor)
    ]


def _on(
    device: torch.device, checkpoint: Checkpoint, settings: EngineSettings, progress: Progress, successor: bool
) -> list[Engine]:
    dtype = arithmetic(settings.dtype, device)
    calibration = settings.calibration if settings.dtype == "int8" else None
    name = "int8" if calibration else dtype_name(dtype)
    torch.set_num_threads(cores())  # the container's, where torch sees the machine's
    progress(f"loading {checkpoint.ref} onto {device} in {name}")
    manifest = checkpoint.manifest
    longest = manifest.recipe.max_length
    config, spec = _config(checkpoint)
    if calibration and spec is None:
        raise CheckpointError(f"{checkpoint.ref}: int8 is for stock BERT only, this is {config.get('model_type')}")
    copies = STOCK_COPIES if spec is None else INT8_COPIES if calibration else 1
    needed = (checkpoint.directory / WEIGHTS).stat().st_size * copies
    if needed > memory_left():
        raise CheckpointError(f"{checkpoint.ref}: {needed >> 20:,} MiB, {memory_left() >> 20:,} MiB are left")
    forward_of = functools.partial(_forward, checkpoint, config, device)
    try:
        with translated_faults():
            if spec is None:
                from worker.engine.trial import stock_model  # with transformers, which takes seconds to import

                def run(model: Model, dtype: torch.dtype, packed: Packed) -> npt.NDArray[np.float32]:
                    return forward_of(model, dtype, dtype_name(dtype), engines=1, later=0)(packed)

                model, dtype = stock_model(checkpoint.directory, longest, device, dtype, run, progress)
                name = dtype_name(dtype)
            else:
                model = _bert(checkpoint, spec, device, dtype, calibration, progress)
    except OutOfMemory:
        raise CheckpointError(f"{checkpoint.ref}: does not fit the memory left on {device}") from None
    if device.type == "cpu":
        keep_freed_memory()
    else:
        torch.cuda.empty_cache()  # of forms that were tried
    engines = cores() if device.type == "cpu" else 2
    forward = forward_of(model, dtype, name, engines, later=0 if successor else 1)
    if forward.most_tokens < longest:
        raise CheckpointError(
            f"{checkpoint.ref}: a batch of one longest review does not fit the memory left on {device}"
        )
    return [Engine(forward, manifest.labels, longest, settings.token_budget, progress) for _ in range(engines)]


def _config(checkpoint: Checkpoint) -> tuple[dict[str, Any], BertSpec | None]:
    path = checkpoint.directory / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("no JSON object")
        problem = head_problem(config, len(checkpoint.manifest.labels))
        spec = bert_spec(config)
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    longest = checkpoint.manifest.recipe.max_length
    if spec is None and "vocab_size" not in config:
        problem = "no vocab_size"
    if spec and longest > spec.positions:
        problem = f"reads {spec.positions} tokens, its recipe asks for {longest}"
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    return config, spec


def _bert(
    checkpoint: Checkpoint, spec: BertSpec, device: torch.device, dtype: torch.dtype, calibration: str | None,
    progress: Progress,
) -> Model:  # fmt: skip
    """Calibrated for int8 where there is what to calibrate it on."""
    path = checkpoint.directory / WEIGHTS
    try:
        weights = load_file(path)
        if calibration:
            return int8_model(checkpoint, spec, weights, dtype, calibration, progress)
        return PackedBert(spec, weights, device, dtype)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: not the weights that config.json describes ({error})") from None


def _forward(
    checkpoint: Checkpoint, config: Mapping[str, Any], device: torch.device, model: Model, dtype: torch.dtype,
    name: str, engines: int, later: int,
) -> Forward:  # fmt: skip
    """`model` as it runs on its device for so many engines, with room left for so many `later` models beside it."""
    longest = checkpoint.manifest.recipe.max_length
    vocabulary: int = config.get("vocab_size", BertSpec().vocabulary)
    room = memory_left() if device.type == "cpu" else torch.cuda.mem_get_info(device)[0]
    model_bytes = _parameters(checkpoint.directory / WEIGHTS) * dtype.itemsize
    per_token = _bytes_per_token(model, config, device, dtype, longest)
    fits = tokens_that_fit(room, model_bytes, per_token, engines, later)
    if device.type == "cpu":
        return CpuForward(model, Cores(cores(), engines), name, vocabulary, fits)
    from worker.engine.cuda import CudaForward

    return CudaForward(model, device, dtype, vocabulary, fits, longest, engines, graphs=isinstance(model, PackedBert))


def _bytes_per_token(
    model: Model, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, longest: int
) -> int:
    """What a batch takes, a token; measured peaks were 1.2 to 1.4 times what is counted here before `UNCOUNTED`."""
    hidden = config.get("hidden_size") or config.get("dim") or 768
    inner = config.get("intermediate_size") or config.get("hidden_dim") or 4 * hidden
    heads = config.get("num_attention_heads") or config.get("n_heads") or 12
    # What is alive at once: input, query, key, value, context and both sides of the wide products, and as much again.
    counted = (6 * hidden + 2 * inner) * dtype.itemsize
    if not isinstance(model, PackedBert):  # padded it has scores, weights, and in DeBERTa those of places
        counted += longest * heads * 5 * 4
    elif device.type == "cpu" and dtype == torch.bfloat16:  # attention by products: scores, in float32, and weights
        counted += longest * heads * 8
    return int(counted * UNCOUNTED)


def _parameters(path: Path) -> int:
    with safe_open(path, framework="numpy") as file:
        names: list[str] = file.keys()
        return sum(math.prod(file.get_slice(name).get_shape()) for name in names)
