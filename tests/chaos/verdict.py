"""What a chaos run is given and what it finds: modes, kinds of worker, state to go on from, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from tests.chaos.ledger import Ledger
from worker.tools.process import COMMAND

IN_FLIGHT, COMMIT_INTERVAL = 500, 0.2  # what the bound on duplicates is made of


@dataclass(frozen=True)
class Mode:
    """Which guarantee, over which client."""

    delivery: str
    client: str

    @property
    def exactly_once(self) -> bool:
        return self.delivery == "exactly_once"

    def __str__(self) -> str:
        return f"{self.delivery}/{self.client}"


MODES = [Mode(d, c) for d in ("at_least_once", "exactly_once") for c in ("kafka-python", "librdkafka")]


@dataclass(frozen=True)
class Workers:
    """What the three workers of a run are like."""

    command: str = COMMAND
    tokens_per_second: int = 8_000
    """Some 280 reviews a second and worker."""
    token_budgets: Sequence[int] = (6000, 1000, 1000)
    """One holds much of its work on the device, two publish at any moment."""
    session_timeout: float = 3.0
    patience: float = 90.0
    """Seconds without progress before the run is given up."""


@dataclass
class State:
    """What a run has been through; kept by the long form, so that it can be resumed."""

    faults: int = 0
    kills: int = 0
    broker_restarts: int = 0
    disturbances: int = 0  # times that a worker had to read again, at most
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass
class Verdict:
    """The last line of a mode: what was lost, doubled and out of order, and everything else that is wrong."""

    mode: str
    client: str
    records: int
    kills: int
    broker_restarts: int
    lost: int
    duplicates: int
    out_of_order: int
    seconds: float
    faults: int
    wrong: int
    allowed_duplicates: int
    problems: list[str]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @property
    def failures(self) -> list[str]:
        """What broke the guarantee, with examples; empty where it held."""
        broken = [f"{name}: {count}" for name in ("lost", "out_of_order", "wrong") if (count := getattr(self, name))]
        if self.duplicates > self.allowed_duplicates:
            broken.append(f"duplicates: {self.duplicates}, over {self.allowed_duplicates}")
        return [*broken, *self.problems]


def judge(mode: Mode, records: int, state: State, ledger: Ledger) -> Verdict:
    """Once all is read."""
    lost = ledger.lost
    if lost:
        state.problems.append(f"lost, for example: {[f'r{number}' for number in lost[:10]]}")
    a_fault = IN_FLIGHT + int(records / state.seconds * COMMIT_INTERVAL)
    return Verdict(
        mode=mode.delivery,
        client=mode.client,
        records=records,
        kills=state.kills,
        broker_restarts=state.broker_restarts,
        lost=len(lost),
        duplicates=ledger.duplicates,
        out_of_order=ledger.out_of_order,
        seconds=round(state.seconds, 1),
        faults=state.faults,
        wrong=ledger.wrong_records,
        allowed_duplicates=0 if mode.exactly_once else min(a_fault * state.disturbances, records // 20),
        problems=[*state.problems, *ledger.examples],
    )
