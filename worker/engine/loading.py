"""From a verified checkpoint and the settings to engines: which device, which arithmetic, which model.

Knows how the parts fit together and nothing of what they do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from schemas.store import WEIGHTS, Checkpoint, CheckpointError
from worker.engine.attention import Batch, Model
from worker.engine.bert import PackedBert
from worker.engine.budget import tokens_that_fit
from worker.engine.calibration import int8_model
from worker.engine.cpu import CpuForward
from worker.engine.device import arithmetic, devices, translated_faults
from worker.engine.engine import Engine, Forward, made_up_texts
from worker.engine.packing import pack
from worker.engine.processor import Cores, cores, keep_freed_memory, memory_left
from worker.engine.spec import bert_spec, head_problem
from worker.faults import DeviceFault, OutOfMemory
from worker.settings import EngineSettings

Progress = Callable[[str], None]
SAME = 1e-5
"""Largest difference of a probability, in float32, at which packed answers count as the padded ones."""
NEAR = 0.1
"""The same in any arithmetic: rounding moves a random text less than that, a wrong kernel more."""
INT8_COPIES = 4
"""How much of its file int8 takes to load: the file, float32 to compare with, its own, and some to compute in."""


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
    manifest = checkpoint.manifest
    engines = cores() if device.type == "cpu" else 2
    dtype = arithmetic(settings.dtype, device)
    name = "int8" if settings.dtype == "int8" else _name(dtype)
    torch.set_num_threads(cores())  # the container's, where torch sees the machine's
    if device.type == "cpu":
        keep_freed_memory()
    progress(f"loading {checkpoint.ref} onto {device} in {name}")
    config = _config(checkpoint)
    try:
        with translated_faults():
            model, parameters = _model(checkpoint, config, device, dtype, settings, progress)
    except OutOfMemory:
        raise CheckpointError(f"{checkpoint.ref}: does not fit the memory left on {device}") from None
    except (SafetensorError, KeyError, RuntimeError) as error:
        path = checkpoint.directory / WEIGHTS
        raise CheckpointError(f"{path}: not the weights that config.json describes ({error})") from None
    longest = manifest.recipe.max_length
    forward = _forward(model, config, device, dtype, name, parameters, engines, longest, later=0 if successor else 1)
    if forward.most_tokens < longest:
        raise CheckpointError(
            f"{checkpoint.ref}: a batch of one longest review does not fit the memory left on {device}"
        )
    return [Engine(forward, manifest.labels, longest, settings.token_budget, progress) for _ in range(engines)]


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    path = checkpoint.directory / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
        problem = head_problem(config, len(checkpoint.manifest.labels))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from None
    if problem:
        raise CheckpointError(f"{path}: {problem}")
    return config


def _model(
    checkpoint: Checkpoint, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype,
    settings: EngineSettings, progress: Progress,
) -> tuple[Model, int]:  # fmt: skip
    """The model on its device, and how many parameters it has."""
    path = checkpoint.directory / WEIGHTS
    longest = checkpoint.manifest.recipe.max_length
    spec = bert_spec(config)
    int8 = settings.calibration if settings.dtype == "int8" else None
    needed = path.stat().st_size * (INT8_COPIES if int8 else 1)
    if needed > memory_left():
        raise CheckpointError(f"{checkpoint.ref}: {needed >> 20:,} MiB, {memory_left() >> 20:,} MiB are left")
    if int8 and spec is None:
        raise CheckpointError(f"{checkpoint.ref}: int8 is for stock BERT only, this is {config.get('model_type')}")
    if spec is None:
        return _stock(checkpoint, config, device, dtype, progress)
    if longest > spec.positions:
        raise CheckpointError(f"{checkpoint.ref}: reads {spec.positions} tokens, its recipe asks for {longest}")
    weights = load_file(path)
    if len(weights["classifier.weight"]) != len(checkpoint.manifest.labels):
        raise RuntimeError(f"a classifier into {len(weights['classifier.weight'])} labels")
    parameters = sum(tensor.numel() for tensor in weights.values())
    if int8:
        return int8_model(checkpoint, spec, weights, dtype, int8, progress), parameters
    return PackedBert(spec, weights, device, dtype), parameters


def _stock(
    checkpoint: Checkpoint, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, progress: Progress
) -> tuple[Model, int]:
    """Any other classifier: packed where, at load, that gives what it gives padded; else padded."""
    from worker.engine.stock import PaddedStock, load_stock

    packed, parameters = _packed_stock(checkpoint, config, device, dtype)
    if not isinstance(packed, str):
        return packed, parameters
    progress(f"{config.get('model_type')} cannot run packed ({packed}): padded, in batches of similar length")
    return PaddedStock(load_stock(checkpoint.directory).to(device, dtype)), parameters


def _packed_stock(
    checkpoint: Checkpoint, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype
) -> tuple[Model | str, int]:
    """The model, or why it cannot run so; and how many parameters it has."""
    from worker.engine.stock import PackedStock, PaddedStock, load_stock

    stock = load_stock(checkpoint.directory)
    parameters = sum(parameter.numel() for parameter in stock.parameters())
    texts = made_up_texts(config["vocab_size"], checkpoint.manifest.recipe.max_length)
    with torch.inference_mode():
        batch = Batch.of(pack(texts))
        try:
            with translated_faults():
                expected = PaddedStock(stock)(batch)
        except OutOfMemory:
            raise
        except Exception as error:  # too few positions, no padding token, …: whatever its classes say
            cause = f"{type(error).__name__}: {error}".partition("\n")[0]
            raise CheckpointError(f"{checkpoint.ref}: cannot classify {len(texts[-1])} tokens ({cause})") from None
        try:
            with translated_faults():
                packed = PackedStock(stock)
                problem = _unlike(packed(batch).numpy(), expected.numpy(), SAME)
                if problem is None:  # and on its device, where products and attention may be others
                    packed.place(dtype, device)
                    placed = _forward(packed, config, device, dtype, _name(dtype), parameters, 1, len(texts[-1]), 0)
                    problem = _unlike(placed(pack(texts)), expected.numpy(), NEAR)
        except (OutOfMemory, DeviceFault):
            raise
        except Exception as error:  # whatever classes do that were never made for this
            problem = type(error).__name__
    return problem or packed, parameters


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _unlike(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32], most: float) -> str | None:
    difference = np.abs(found - expected).max()
    return None if difference <= most else f"answers differ by {difference:.1g}"


def _forward(
    model: Model, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, name: str, parameters: int,
    engines: int, longest: int, later: int,
) -> Forward:  # fmt: skip
    hidden = config.get("hidden_size") or config.get("dim") or 768
    inner = config.get("intermediate_size") or config.get("hidden_dim") or 4 * hidden
    # What is alive at once: input, query, key, value, context and both sides of the wide products, and as much again.
    per_token = (6 * hidden + 2 * inner) * dtype.itemsize
    if device.type == "cpu" and dtype == torch.bfloat16:  # attention by products: scores, in float32, and weights
        per_token += longest * (config.get("num_attention_heads") or config.get("n_heads") or 12) * 8
    model_bytes = parameters * dtype.itemsize
    if device.type == "cpu":
        fits = tokens_that_fit(memory_left(), model_bytes, per_token, engines, later)
        return CpuForward(model, Cores(cores(), engines), name, config["vocab_size"], fits)
    from worker.engine.cuda import CudaForward

    fits = tokens_that_fit(torch.cuda.mem_get_info(device)[0], model_bytes, per_token, engines, later)
    known = isinstance(model, PackedBert)
    return CudaForward(model, device, dtype, config["vocab_size"], fits, longest, engines, graphs=known)
