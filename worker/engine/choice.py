"""Which engines the settings ask for. A simulated one needs no torch, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from schemas.store import Checkpoint
from worker.configuration import ConfigurationError
from worker.settings import EngineSettings


def make_engines(
    checkpoint: Checkpoint, settings: EngineSettings, progress: Callable[[str], None] = lambda message: None
) -> Sequence[Any]:
    """One engine a core, or two a GPU, not warm yet; ConfigurationError where there is no such device."""
    try:
        if settings.device.startswith("simulated"):
            from worker.engine.simulated import SimulatedEngine

            return [SimulatedEngine(checkpoint.manifest.labels, settings.device, settings.token_budget)]
        from worker.engine import load_engines

        return load_engines(checkpoint, settings, progress=progress)
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
