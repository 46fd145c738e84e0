"""What goes wrong in a chaos run, one function each: it breaks something, repairs it, and returns when that is done.

Knows the run only by what it offers: its world and its workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.chaos.proxy import PRODUCE, TXN_OFFSET_COMMIT
from tests.chaos.world import GROWN, INPUT, OUTPUT, PARTITIONS

if TYPE_CHECKING:
    from tests.chaos.run import Run

Fault = Callable[["Run"], None]


def kill(run: Run) -> None:
    """SIGKILL, with records in flight; another takes its place."""
    run.kill(run.busy_worker())


def roll(run: Run) -> None:
    """SIGTERM one after the other, as a deployment does."""
    for slot in run.slots:
        run.replace(slot)


def zombie(run: Run) -> None:
    """SIGSTOP until the group has given its partitions away, then it goes on."""
    slot = run.busy_worker()
    with run.frozen(slot):
        run.let_pass(1.5 * run.session_timeout + 1)


def usurp(run: Run) -> None:
    """A static member is frozen, its replacement comes with the same id, and then the old one wakes up."""
    slot = run.busy_worker(static=True)
    with run.frozen(slot) as old:
        run.start(slot)
        run.wait_ready(slot)
    run.expect_one_end(old, slot)


def crash_broker(run: Run) -> None:
    """Kill -9 of the only broker, and a start."""
    run.world.kafka.kill()
    run.world.kafka.start_node()
    run.state.broker_restarts += 1
    run.state.disturbances += len(run.slots)


def cut(run: Run) -> None:
    """Every connection of the workers ends, three times over."""
    for _ in range(3):
        run.proxy.cut()
        run.let_pass(0.3)


def silence(run: Run) -> None:
    """The network takes and gives nothing for a while, with connections open; then they end."""
    with run.proxy.silent():
        run.let_pass(2.0)


def slow(run: Run) -> None:
    """Everything takes 50 ms longer, each way, while a worker leaves its group and another joins."""
    with run.proxy.slow(0.05):
        run.replace(run.slots[-1])


def withhold(run: Run) -> None:
    """No result gets to the broker, everything else does; a worker is killed in that time."""
    with run.proxy.withholding(PRODUCE, lose=True):
        run.let_pass(1.0)
        run.kill(run.busy_worker())


def refuse(run: Run) -> None:
    """On three nodes: the output takes nothing, for too few replicas; a worker is killed in that time."""
    run.world.kafka.kill(0)
    run.world.configure(OUTPUT, min_insync_replicas=3)
    run.let_pass(1.0)
    run.kill(run.busy_worker())
    run.world.configure(OUTPUT, min_insync_replicas=2)
    _bring_back(run, 0)


def shrink(run: Run) -> None:
    """The output takes no large results, until a worker has been refused one for good and begun again."""
    for slot in run.slots:
        run.wait_ready(slot)  # one that starts then would take the limit for the topic's own
    before = {slot: run.rewinds(slot) for slot in run.slots}
    run.world.configure(OUTPUT, max_message_bytes=700)
    try:
        run.until_in_flow(lambda: any(run.rewinds(slot) != before[slot] for slot in run.slots))
    finally:
        run.world.configure(OUTPUT, max_message_bytes=1_048_588)
    run.state.disturbances += len(run.slots)


def relapse(run: Run) -> None:
    """Exactly once: offsets come to the group when another worker has joined it, so the transaction is aborted; who
    began again is killed as soon as it gets on."""
    before = {slot: run.rewinds(slot) for slot in run.slots}
    extra = len(run.slots)
    with run.proxy.withholding(TXN_OFFSET_COMMIT):
        run.busy_worker()
        run.start(extra)
        run.wait_ready(extra)
    run.until_in_flow(lambda: run.dry or any(run.rewinds(slot) > before[slot] for slot in run.slots))
    commits = {slot: run.commits(slot) for slot in run.slots if run.rewinds(slot) > before[slot]}
    while commits and not run.dry:
        on: list[int] = []
        run.until_in_flow(
            lambda on=on: on.extend(s for s, count in commits.items() if run.commits(s) > count) or on or run.dry
        )  # type: ignore[misc]
        for slot in on:
            del commits[slot]
            run.kill(slot)
    run.stop(extra)


def grow(run: Run) -> None:
    """The input gets more partitions, and records in them."""
    if run.world.partitions(INPUT) == PARTITIONS:
        run.world.grow(INPUT, GROWN)
    run.generator.grow(GROWN)


def kill_leader(run: Run) -> None:
    """Of three nodes, the one that leads the first output partition, killed while results are written to it."""
    node = run.world.leaders(OUTPUT)[0]
    run.world.kafka.kill(node)
    run.until(lambda: run.world.leaders(OUTPUT)[0] != node)
    _bring_back(run, node)


def _bring_back(run: Run, node: int) -> None:
    """Of three nodes, one that was killed, until it has all again: the next fault is to find the cluster whole."""
    run.world.kafka.start_node(node)
    run.until(lambda: run.world.whole)
    run.state.broker_restarts += 1
    run.state.disturbances += len(run.slots)
