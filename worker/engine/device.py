"""What torch says when a device fails, in the words of `worker.faults`; and which devices and arithmetic there are."""

from __future__ import annotations

import functools
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from worker.faults import DeviceFault, OutOfMemory

_NO_MEMORY = (  # of torch, oneDNN, CUDA or Triton, cuBLAS
    "can't allocate memory", "not enough memory", "could not create a memory", "out of memory", "ALLOC_FAILED",
)  # fmt: skip
# oneDNN's too, and nothing more: of what it cannot compute at all it says "could not create a primitive descriptor …".
_NO_MEMORY_EITHER = "could not create a primitive", "could not execute a primitive"
_BROKEN = "CUDA error", "Error [CUDA]", "CUBLAS_STATUS", "CUDNN_STATUS"
_log = logging.getLogger(__name__)


@contextmanager
def translated_faults() -> Iterator[None]:
    """Turns torch's errors into OutOfMemory and DeviceFault; whatever else is raised, a record may have caused."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        traceback.clear_frames(error.__traceback__)  # they hold the very memory that the next try needs
        raise OutOfMemory(str(error).partition("\n")[0]) from error
    except RuntimeError as error:
        message = str(error).partition("\n")[0]
        if message in _NO_MEMORY_EITHER or any(words in message for words in _NO_MEMORY):
            traceback.clear_frames(error.__traceback__)
            raise OutOfMemory(message) from error
        # The context is lost: every later call on the device fails too.
        if isinstance(error, torch.AcceleratorError) or any(words in message for words in _BROKEN):
            raise DeviceFault(message) from error
        raise


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def devices(wanted: str) -> list[torch.device]:
    """The devices that a setting names; ValueError where this machine has none such."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted in ("auto", "cuda") and gpus:
        return [torch.device("cuda", index) for index in range(gpus)]
    if wanted in ("auto", "cpu"):
        return [torch.device("cpu")]
    kind, _, index = wanted.partition(":")
    if kind != "cuda" or (":" in wanted and not index.isdigit()):
        raise ValueError(f"engine.device {wanted!r}: expected auto, cpu, cuda, cuda:N or simulated[:tokens/s]")
    if not index or int(index) >= gpus:
        raise ValueError(f"engine.device {wanted!r}: torch finds {gpus} GPUs here")
    return [torch.device("cuda", int(index))]


@functools.cache
def gpu_kernels(device: torch.device) -> Any:
    """The module worker.engine.kernels where the device can use it; None on the CPU, and where Triton finds no
    C compiler, say: torch's own kernels then do the same."""
    if device.type != "cuda":
        return None
    try:
        from worker.engine import kernels
    except ImportError as error:
        problem: str | None = str(error)
    else:
        with torch.cuda.device(device):  # Triton launches on the current one
            problem = kernels.problem(device)
        if problem is None:
            return kernels
    _log.warning("%s: slower than it could be, the fused kernels cannot be used (%s)", device, problem)
    return None


def arithmetic(wanted: str, device: torch.device) -> torch.dtype:
    """The type that a setting names, beside int8 the one for all else; `auto` is the fastest that keeps the labels.
    ValueError where the device has no int8 or, as GPUs before Ampere, no kernels of half precision.

    That is bfloat16 wherever the device multiplies it natively: GPUs from Ampere on, processors with AMX (8 times
    float32's rate) or AVX512-BF16 (twice). tests/benchmarks/equality.py shows that it keeps the labels.
    """
    if wanted == "int8":
        if device.type != "cpu" or not torch.cpu._is_vnni_supported():
            raise ValueError(f"engine.dtype int8: only on processors with AVX512-VNNI, not on {device}")
    elif wanted != "auto":
        chosen: torch.dtype = getattr(torch, wanted)
        if device.type == "cuda" and chosen != torch.float32 and torch.cuda.get_device_capability(device)[0] < 8:
            raise ValueError(f"engine.dtype {wanted}: GPUs from Ampere on have its kernels, {device} is older")
        return chosen
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32
