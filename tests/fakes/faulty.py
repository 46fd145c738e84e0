"""The worker with a fault at one place: `python -m tests.fakes.faulty FAULT PLACE TRIGGER run …`.

Patches the product from outside, then its command line runs as usual. From the moment the file TRIGGER exists, the
fault happens whenever the place is reached; a model's faults are those of whatever sequences it is given.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worker.accounting import Accounting
from worker.cli import main
from worker.decode import Decoder
from worker.delivery import Delivery
from worker.engine.engine import Engine
from worker.holdings import Holdings
from worker.infer import InferStage
from worker.intake import Intake
from worker.membership import Membership
from worker.publish import ResultWriter
from worker.tokenize import TokenizeStage

PLACES: dict[str, tuple[type, str]] = {
    "decode": (Decoder, "decode"),
    "tokenize": (TokenizeStage, "tokenize"),
    "infer": (InferStage, "infer"),
    "write": (ResultWriter, "write"),
    "send": (Delivery, "send"),
    "settle": (Delivery, "settle"),
    "poll": (Intake, "poll"),
    "commit": (Intake, "commit"),
    "commit_transaction": (Delivery, "commit_transaction"),
    "observe": (Accounting, "look"),
    "delivered": (Membership, "delivered"),  # called from the client's thread
    "hand_over": (Holdings, "hand_over"),  # called with the lock that every stage takes
    "engine": (Engine, "classify"),
}
POISON_TOKENS = 2  # a review of two common words; the engine's own test has none as short


def exception(*args: Any) -> None:
    raise ZeroDivisionError("injected")


def hang(*args: Any) -> None:
    threading.Event().wait()


def hang_with_interpreter(*args: Any) -> None:
    """As native code does that never gives the interpreter's lock back."""
    ctypes.PyDLL(None).sleep(3600)


def poison(engine: Any, sequences: Sequence[Sequence[int]]) -> None:
    if any(len(sequence) == POISON_TOKENS for sequence in sequences):
        raise RuntimeError("poison")


def wrong_answers(engine: Any, sequences: Sequence[Sequence[int]]) -> np.ndarray:
    return np.full((len(sequences), len(engine.labels)), np.nan, np.float32)


FAULTS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (exception, hang, hang_with_interpreter, poison, wrong_answers)
}


def inject(fault: Callable[..., Any], place: str, trigger: Path) -> None:
    owner, name = PLACES[place]
    method = getattr(owner, name)

    def faulty(*args: Any, **options: Any) -> Any:
        if not trigger.exists():
            return method(*args, **options)
        Path(f"{trigger}.reached").touch()
        answer = fault(*args)
        return method(*args, **options) if answer is None else answer

    setattr(owner, name, faulty)


def command(folder: Path, fault: str, place: str) -> tuple[str, Path]:
    """Path of an executable that stands in for `review-worker`, and of its trigger."""
    path, trigger = folder / "review-worker-faulty", folder / "trigger"
    run = f'"{sys.executable}" -m {__name__} {fault} {place} "{trigger}"'
    path.write_text(f'#!/bin/sh\nPYTHONPATH="{Path(__file__).parents[2]}" exec {run} "$@"\n')
    path.chmod(0o755)
    return str(path), trigger


if __name__ == "__main__":
    fault, place, path = sys.argv[1:4]
    del sys.argv[1:4]
    inject(FAULTS[fault], place, Path(path))
    main()
