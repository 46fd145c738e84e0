"""The classifier: token ids in, probabilities out, on one device. Knows nothing of Kafka, events or text.

    engine = load_engine(checkpoint, settings); engine.warm_up(); engine.classify([[101, 2204, 102], ...])

Importing this package imports no torch; loading an engine does.
"""

from worker.engine.engine import Engine
from worker.engine.loading import load_engine, load_engines
from worker.engine.tokenizer import load_tokenizer

__all__ = ["Engine", "load_engine", "load_engines", "load_tokenizer"]
