"""The classifier: token ids in, probabilities out, on one device. Knows nothing of Kafka, events or text.

    engines = load_engines(checkpoint, settings); engines[0].warm_up(); engines[0].classify([[101, 2204, 102], ...])

Importing this package imports no torch; asking it for `load_engines` does.
"""

from typing import TYPE_CHECKING, Any

from worker.engine.engine import Engine

if TYPE_CHECKING:
    from worker.engine.loading import load_engines

__all__ = ["Engine", "load_engines"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from worker.engine import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
