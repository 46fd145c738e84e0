"""From a verified checkpoint and the settings to engines: which device, which arithmetic, which forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from schemas.store import WEIGHTS, Checkpoint, CheckpointError
from worker.engine.engine import DEFAULT_BUDGET, Engine
from worker.engine.spec import bert_spec, check_head, read_config
from worker.settings import EngineSettings

if TYPE_CHECKING:
    import torch

Progress = Callable[[str], None]


def load_engine(checkpoint: Checkpoint, settings: EngineSettings, *, progress: Progress = lambda line: None) -> Engine:
    """The engine on the one device that the settings name, the first where they name several; not yet warm.

    CheckpointError where the checkpoint is no classifier that can be served.
    """
    return _load(checkpoint, settings, devices(settings.device)[0], progress)


def load_engines(
    checkpoint: Checkpoint, settings: EngineSettings, *, progress: Progress = lambda line: None
) -> list[Engine]:
    """One engine a device."""
    return [_load(checkpoint, settings, device, progress) for device in devices(settings.device)]


def devices(wanted: str) -> list[torch.device]:
    """The devices a setting names; ValueError where this machine has none such."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted in ("auto", "cuda") and gpus:
        return [torch.device("cuda", index) for index in range(gpus)]
    if wanted in ("auto", "cpu"):
        return [torch.device("cpu")]
    kind, _, index = wanted.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise ValueError(f"engine.device {wanted!r}: expected auto, cpu, cuda or cuda:N")
    if not index or int(index) >= gpus:
        raise ValueError(f"engine.device {wanted!r}: this machine has {gpus} GPUs that torch can use")
    return [torch.device("cuda", int(index))]


def _load(checkpoint: Checkpoint, settings: EngineSettings, device: torch.device, progress: Progress) -> Engine:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from worker.engine.bert import PackedBert

    manifest = checkpoint.manifest
    config = read_config(checkpoint.directory)
    check_head(config, len(manifest.labels), manifest.recipe.max_length, checkpoint.directory / "config.json")
    spec = bert_spec(config)
    if spec is None:
        raise CheckpointError(f"{checkpoint.directory}/config.json: only BERT with a classification head is known")
    dtype = torch.float32 if settings.dtype == "auto" else getattr(torch, settings.dtype)
    progress(f"loading {checkpoint.ref} onto {device}")
    path = checkpoint.directory / WEIGHTS
    try:
        weights = load_file(path)
        forward = PackedBert(spec, weights, device, dtype, rows=settings.token_budget or DEFAULT_BUDGET)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"{path}: not the weights that config.json describes ({error})") from None
    return Engine(forward, manifest.labels, manifest.recipe.max_length, settings.token_budget, progress)
