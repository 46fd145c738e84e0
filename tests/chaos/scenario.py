"""One run of the short form: a mode, what goes wrong, and the worker that it happens to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.chaos.faults import Fault
from tests.chaos.mutations import command
from tests.chaos.run import Run
from tests.chaos.verdict import Mode, Verdict, Workers
from tests.chaos.world import PARTITIONS, World


@dataclass(frozen=True)
class Scenario:
    mode: Mode
    faults: Sequence[Fault]
    records: int = 12_000
    nodes: int = 1
    partitions: int = PARTITIONS
    backlog: bool = False
    mutation: str = ""
    workers: Workers = field(default_factory=Workers)

    def __str__(self) -> str:
        return "-".join(filter(None, [self.mutation or str(self.mode), f"{self.nodes} nodes" * (self.nodes > 1)]))

    def __call__(self, folder: Path, checkpoint: Path) -> Verdict:
        like = self.workers
        if self.nodes > 1:  # a session outlives the election of another coordinator, as with Kafka's own defaults
            like = replace(like, session_timeout=2 * like.session_timeout)
        if self.mutation:
            like = replace(like, command=command(self.mutation, folder))
        with World(self.nodes, partitions=self.partitions) as world:
            return Run(self.mode, world, checkpoint, folder, self.records, workers=like, backlog=self.backlog).execute(
                self.faults
            )
