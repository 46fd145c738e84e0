"""What the short form of the chaos suite shares: its scenarios run a few at a time, since most of each is waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import pytest

from tests.chaos.faults import Fault
from tests.chaos.mutations import command
from tests.chaos.reviews import review_texts
from tests.chaos.run import Mode, Run, Verdict, Workers
from tests.chaos.world import PARTITIONS, World
from tests.fakes.checkpoint import make_checkpoint

AT_ONCE = 3

Chaos = Callable[["Scenario"], Verdict]


@dataclass(frozen=True)
class Scenario:
    """One run: a mode, what goes wrong, and the worker it happens to."""

    mode: Mode
    faults: Sequence[Fault]
    records: int = 12_000
    nodes: int = 1
    partitions: int = PARTITIONS
    mutation: str = ""
    workers: Workers = field(default_factory=Workers)

    def __str__(self) -> str:
        return "-".join(filter(None, [self.mutation or str(self.mode), f"{self.nodes} nodes" * (self.nodes > 1)]))


@pytest.fixture(scope="session")
def chaos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    """The verdict of a scenario. Those of all tests selected are begun in their order; prints the verdict, which
    pytest shows of a failure."""
    folder = tmp_path_factory.mktemp("chaos")
    checkpoint = make_checkpoint(folder / "random", review_texts())

    def run(number: int, scenario: Scenario) -> Verdict:
        own = folder / str(number)
        own.mkdir()
        like = scenario.workers
        if scenario.mutation:
            like = replace(like, command=command(scenario.mutation, own))
        with World(scenario.nodes, partitions=scenario.partitions) as world:
            return Run(scenario.mode, world, checkpoint, own, scenario.records, workers=like).execute(scenario.faults)

    scenarios = [
        item.callspec.params["scenario"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and "scenario" in getattr(item, "callspec", request).params
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        verdicts: list[tuple[Scenario, Future[Verdict]]] = [
            (scenario, pool.submit(run, number, scenario)) for number, scenario in enumerate(scenarios)
        ]

        def verdict(wanted: Scenario) -> Verdict:
            found = next(future for scenario, future in verdicts if scenario is wanted).result()
            print(found.to_json())
            return found

        yield verdict
        pool.shutdown(cancel_futures=True)
