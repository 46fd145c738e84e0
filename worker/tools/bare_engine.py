"""Tokenizer and engines without Kafka or pipeline: what `bench pipeline` holds the worker against."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from schemas.recipe import tokenize
from schemas.store import fetch
from worker.batching import TokenQueue
from worker.engine.choice import make_engines
from worker.engine.tokenizer import load_tokenizer
from worker.settings import Settings

CHUNK = 256  # texts tokenized at once


@dataclass(frozen=True, slots=True)
class Item:
    ids: list[int]

    @property
    def cost(self) -> int:
        return len(self.ids)


class BareEngine:
    """The engines that a worker with these settings would have, warm."""

    def __init__(self, settings: Settings) -> None:
        assert settings.checkpoint.ref is not None
        checkpoint = fetch(settings.checkpoint.ref, settings.checkpoint.cache_dir)
        self._engines = make_engines(checkpoint, settings.engine)
        for engine in self._engines:
            engine.warm_up()
        self._encode = load_tokenizer(checkpoint).encode_batch_fast
        self._recipe = checkpoint.manifest.recipe

    @property
    def engines(self) -> int:
        return len(self._engines)

    def reviews_per_second(self, texts: Sequence[str]) -> float:
        """Rate of texts to probabilities: one thread tokenizes, one an engine classifies, each as it is ready."""
        started = time.monotonic()
        queue: TokenQueue[Item] = TokenQueue()
        changed = threading.Condition()
        done = False

        def classify(engine: object) -> None:
            while True:
                with changed:
                    changed.wait_for(lambda: queue or done)
                    batch = queue.take(engine.token_budget)  # type: ignore[attr-defined]
                if not batch:
                    return
                engine.classify([item.ids for item in batch])  # type: ignore[attr-defined]

        with ThreadPoolExecutor(len(self._engines)) as pool:
            running = [pool.submit(classify, engine) for engine in self._engines]
            for start in range(0, len(texts), CHUNK):
                tokens = tokenize(self._encode, self._recipe, texts[start : start + CHUNK])
                with changed:
                    queue.put(Item(item.ids) for item in tokens)
                    changed.notify_all()
            with changed:
                done = True
                changed.notify_all()
        for thread in running:
            thread.result()
        return len(texts) / (time.monotonic() - started)

    def forward_ms(self, texts: Sequence[str]) -> float:
        """Median of the time that one text alone takes, tokens to probabilities, in milliseconds."""
        took = []
        for item in tokenize(self._encode, self._recipe, list(texts)):
            started = time.perf_counter()
            self._engines[0].classify([item.ids])
            took.append(time.perf_counter() - started)
        return statistics.median(took) * 1000
