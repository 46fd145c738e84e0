"""The long form of the chaos suite: every fault in every mode, many times over. `make chaos RECORDS=… KILLS=…`.

Prints two lines of JSON a mode: of the long run on one node, and of a short one on three, for the faults that need
them. Interrupted, it goes on where it was: Kafka's records and the state of each mode are kept in a folder until the
mode has its verdicts; the short run begins anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from tests.chaos.faults import (
    Fault,
    crash_broker,
    cut,
    grow,
    kill,
    kill_leader,
    refuse,
    relapse,
    roll,
    shrink,
    silence,
    slow,
    usurp,
    withhold,
    zombie,
)
from tests.chaos.reviews import review_texts
from tests.chaos.run import WORKERS, Run
from tests.chaos.scenario import Scenario
from tests.chaos.verdict import MODES, Mode, State, Verdict, Workers
from tests.chaos.world import World
from tests.fakes.checkpoint import make_checkpoint

LIKE = Workers(tokens_per_second=20_000)  # a faster one has more results not yet committed, which a kill doubles
OTHERS = [zombie, crash_broker, cut, withhold, shrink, roll, silence, usurp, slow]
ON_THREE_NODES = [kill_leader, refuse] * 3
KILLS_BETWEEN = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", choices=list(map(str, MODES)), help="one mode instead of all")
    parser.add_argument("--folder", type=Path, default=Path(".chaos"), help="where it is kept what was done")
    arguments = parser.parse_args()
    failed = False
    for mode in MODES:
        if arguments.only in (None, str(mode)):
            failed |= not chaos(mode, arguments.records, arguments.kills, arguments.folder)
    sys.exit(1 if failed else 0)


def chaos(mode: Mode, records: int, kills: int, folder: Path) -> bool:
    """Whether the guarantee held, on one node and on three."""
    own = folder / f"{mode.delivery}-{mode.client}-{records}-{kills}"
    own.mkdir(parents=True, exist_ok=True)
    kept = own / "state.json"
    state = State(**json.loads(kept.read_text())) if kept.exists() else State()
    if kept.exists():
        say(f"{mode}: going on after {state.faults} faults (remove {own} to begin anew)")
        state.disturbances += WORKERS  # those of the earlier run were killed with it
    checkpoint = own / "random"
    if not checkpoint.exists():
        make_checkpoint(checkpoint, review_texts())
    faults = sequence(mode, kills)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[now]}"), TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:  # fmt: skip
        task = progress.add_task(str(mode), total=records, now="")

        def keep(run: Run) -> None:
            now = f"{run.ledger.outcomes:,} records, {state.faults} of {len(faults)} faults, {state.kills} kills"
            progress.update(task, completed=run.ledger.outcomes, now=now)
            content = json.dumps(asdict(state))
            if not kept.exists() or kept.read_text() != content:
                kept.write_text(content)

        with World(data_dir=own / "kafka") as world:
            verdict = Run(
                mode, world, checkpoint, own, records, workers=LIKE, state=state, seed=state.faults, on_progress=keep
            ).execute(faults)
    held = report(verdict)
    say(f"{mode}: {len(ON_THREE_NODES)} faults on three nodes")
    three = own / "three"
    shutil.rmtree(three, ignore_errors=True)
    three.mkdir()
    held &= report(Scenario(mode, ON_THREE_NODES, records=60_000, nodes=3, workers=LIKE)(three, checkpoint))
    if held:
        shutil.rmtree(own)
    return held


def report(verdict: Verdict) -> bool:
    """Whether it is a good one."""
    print(verdict.to_json(), flush=True)
    for failure in verdict.failures:
        say(failure)
    return not verdict.failures


def sequence(mode: Mode, kills: int) -> list[Fault]:
    """So many kills, other faults between them; the same for every run of a mode, so that it can be resumed."""
    others = [*OTHERS, relapse] if mode.exactly_once else list(OTHERS)
    random.Random(0).shuffle(others)
    between = itertools.cycle(others)
    faults: list[Fault] = [grow]
    for number in range(kills):
        faults.append(kill)
        if number % KILLS_BETWEEN == KILLS_BETWEEN - 1:
            faults.append(next(between))
    return faults


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
