"""What long outages and long backlogs do to one worker, in every mode or in those of one client or delivery:
`python -m tests.chaos.outages [--seconds 180] [--only away] [--client librdkafka] [--delivery exactly_once]`.

The process under test is `review-worker run` with the simulated model, with more to read than it can get done. Progress
goes to standard error, a line of JSON for each scenario to standard output; exit 1 where a target was missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.chaos.reviews import BAD_EVERY, review, review_texts
from tests.chaos.stage import Stage, Stream
from tests.chaos.verdict import MODES, Mode
from tests.chaos.watch import SUSTAINED, Sample, always_live, per_second, rate, seconds_to_full_rate
from tests.chaos.world import INPUT, OUTPUT, OUTPUT_PARTITIONS, PARTITIONS
from tests.fakes.checkpoint import make_checkpoint
from worker.tools.process import COMMAND

SETTINGS = {
    "engine.device": "simulated:60000",  # tokens a second: some 2,100 reviews
    "engine.token_budget": 3000,  # twenty batches a second
    "in_flight.seconds": 10,  # so that the bound is the 20,000 records that a faster model would reach
}
TRICKLE = 200  # records a second that come in during an outage, beside the backlog
MEMORY = 100.0  # megabytes


@dataclass(frozen=True)
class Length:
    """How long things take, in seconds, and how much there is to do, in records."""

    outage: float = 180.0
    missing_topic: float = 60.0
    steady: float = 10.0
    drain: float = 60.0
    backlog: int = 100_000
    behind: int = 5_000_000


@dataclass
class Result:
    """One line of the report. `wrong` says what guarantee was broken, `slow` what target of speed was missed."""

    scenario: str
    client: str
    delivery: str
    figures: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="minutes"))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def expect(self, right: bool, what: str) -> None:
        if not right:
            self.wrong.append(what)


def refused(stage: Stage, stream: Stream, length: Length) -> Result:
    """Of three nodes one is down, and the output takes nothing for as long as it asks for three replicas in sync.

    One node and `min.insync.replicas=2` would not do: Kafka 4.1 never asks for more replicas than a topic has.
    """
    if stage.worker is None:
        stage.world.kafka.kill(2)
        stage.until(lambda: stage.world.brokers() == 2, "the others to notice")

    def refuse() -> None:
        stage.world.configure(OUTPUT, min_insync_replicas=3)

    def accept() -> None:
        stage.world.configure(OUTPUT, min_insync_replicas=2)

    result = _outage("refused", stage, stream, length, refuse, accept, full_rate_within=2.0)
    result.expect(result.figures["rebalances"] == 0, "the group rebalanced")
    return result


def away(stage: Stage, stream: Stream, length: Length) -> Result:
    """The only broker is killed; starting it again returns with the coordinators' first answers."""
    kafka = stage.world.kafka
    return _outage("away", stage, stream, length, kafka.kill, kafka.start_node, full_rate_within=10.0)


def _outage(
    name: str,
    stage: Stage,
    stream: Stream,
    length: Length,
    destroy: Callable[[], None],
    repair: Callable[[], None],
    full_rate_within: float,
) -> Result:
    result = Result(name, stage.mode.client, stage.mode.delivery)
    watch, duplicates = stage.watch, stream.ledger.duplicates
    stream.feed(length.backlog)
    worker = stage.worker or stage.start()
    idle = watch.last
    stage.progress()
    steady = watch.mark()
    stage.let_pass(length.steady, "the end of steady work")
    before = watch.samples[steady:]
    with stream.trickling(TRICKLE):
        destroy()
        broken = watch.mark()
        stage.let_pass(length.outage, "the end of the outage")
        result.expect(worker.running, "the worker ended")
        during = watch.samples[broken:]
        result.expect(rate(during) < rate(before) / 2, "it was no outage")
        repair()
    repaired = watch.mark()
    stage.let_pass(min(length.outage, full_rate_within + SUSTAINED + 2), "full rate")
    took = seconds_to_full_rate(before, watch.samples[repaired:])
    stream.settle()
    if took is None or took > full_rate_within:
        result.slow.append(f"full rate after {took} s, not within {full_rate_within:g}")
    result.figures |= {
        "outage_seconds": length.outage,
        "records_per_second_before": round(rate(before)),
        "done_during_outage": during[-1].done - during[0].done,
        "seconds_to_full_rate": None if took is None else round(took, 2),
        "done_in_each_second_after": per_second(watch.samples[repaired:]),
        "rebalances": watch.last.rebalances - before[-1].rebalances,
        "rewinds": watch.last.rewinds - before[-1].rewinds,
    }
    _note_memory(result, idle, before[-1], watch.samples[broken:])
    result.expect(always_live(watch.samples[broken:]), "/livez was false")
    _note_ledger(result, stream, duplicates)
    return result


def deleted(stage: Stage, stream: Stream, length: Length) -> Result:
    """The output topic is deleted while results are written to it, and later made again by `topics create`."""
    result = Result("deleted", stage.mode.client, stage.mode.delivery)
    stream.feed(length.backlog)
    worker = stage.worker or stage.start()
    idle = stage.watch.last
    stage.progress()
    stage.let_pass(length.steady, "the end of steady work")
    stream.stop_reading()
    earlier, before, begun = stream.ledger, stage.watch.last, stage.watch.mark()
    with stream.trickling(TRICKLE):
        stage.world.delete(OUTPUT)
        stage.let_pass(2.0, "the commits of what was acknowledged before")
        committed = stage.world.committed()
        stage.let_pass(length.missing_topic, "the topic to be missed")
        ended = None if worker.running else worker.wait(1)
        result.expect(ended in (None, 1), f"the worker ended with exit code {ended}")
        result.expect(OUTPUT not in stage.world.topics(), "the worker made the topic")
        result.expect(stage.world.committed() == committed, "offsets were committed with nowhere to write results to")
    servers = f"--kafka.bootstrap_servers={stage.world.bootstrap}"
    subprocess.run([COMMAND, "topics", "create", servers], check=True, stdout=subprocess.DEVNULL)
    kept = worker.running
    # `topics create` makes as many partitions as the input has; a worker keeps to what it found at its start.
    stream.read(OUTPUT_PARTITIONS if kept else PARTITIONS)
    if not kept:
        result.expect(worker.wait(1) == 1, "the worker ended with another exit code than 1")
        stage.start()
    stream.settle()
    unseen = stream.missing().intersection(earlier.lost)
    # Acknowledged before: those results were deleted with the topic.
    gone = {number for number in unseen if stream.place(number)[1] < committed.get(stream.place(number)[0], 0)}
    result.figures |= {"missing_seconds": length.missing_topic, "exit_code": ended, "deleted_results": len(gone)}
    _note_memory(result, idle, before, stage.watch.samples[begun:])
    result.expect(ended == 1 or always_live(stage.watch.samples[begun:]), "/livez was false")
    _note_ledger(result, stream, 0, lost=unseen - gone)
    return result


def behind(stage: Stage, length: Length) -> Result:
    """The input holds millions of records when the worker comes; its model is faster than everything around it."""
    result = Result("behind", stage.mode.client, stage.mode.delivery)
    stage.say(f"filling the input with {length.behind:,} records")
    _fill(stage.world.bootstrap, length.behind)
    stage.start()
    idle, begun = stage.watch.last, stage.watch.mark()
    stage.progress()
    stage.let_pass(length.drain, "the backlog")
    samples = stage.watch.samples[begun:]
    result.figures |= {"records_behind": length.behind, "records_per_second": round(rate(samples))}
    _note_memory(result, idle, idle, samples)
    result.expect(always_live(samples), "/livez was false")
    assert stage.worker is not None
    stage.worker.signal()
    result.expect((code := stage.worker.wait()) == 0, f"the worker drained with exit code {code}")
    committed, written = sum(stage.world.committed().values()), stage.world.records(OUTPUT)
    result.figures |= {"committed": committed, "results": written}
    result.expect(committed == written, f"{committed} records committed, {written} results written")
    return result


def _fill(bootstrap: str, records: int) -> None:
    texts = review_texts()
    values = [review(number, texts).value for number in range(BAD_EVERY - 1)]
    producer = Producer({"bootstrap.servers": bootstrap, "compression.type": "lz4", "linger.ms": 50, "log_level": 2})
    for number in range(records):
        while True:
            try:
                producer.produce(INPUT, values[number % len(values)], None, number % PARTITIONS)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def _note_memory(result: Result, idle: Sample, before: Sample, samples: list[Sample]) -> None:
    """What became of the process's memory in the time of the samples."""
    most = max(sample.memory for sample in samples)
    megabytes = {"idle": idle.memory, "before": before.memory, "most": most, "end": samples[-1].memory}
    result.figures["memory_mb"] = {when: round(value, 1) for when, value in megabytes.items()}
    result.figures["memory_growth_mb"] = round(most - before.memory, 1)
    result.expect(most - before.memory < MEMORY, f"memory grew by {most - before.memory:.0f} MB")


def _note_ledger(result: Result, stream: Stream, duplicates_before: int, lost: set[int] | None = None) -> None:
    ledger = stream.ledger
    lost = stream.missing() if lost is None else lost
    duplicates = ledger.duplicates - duplicates_before
    result.figures |= {"records": stream.sent, "lost": len(lost), "duplicates": duplicates}
    result.expect(not lost, f"lost, for example {sorted(lost)[:10]}")
    result.expect(not ledger.wrong_records, f"{ledger.wrong_records} wrong records: {ledger.examples}")
    result.expect(not ledger.out_of_order, f"{ledger.out_of_order} out of order: {ledger.examples}")
    result.expect(not duplicates or result.delivery == "at_least_once", f"{duplicates} duplicates")


SCENARIOS = {scenario.__name__: scenario for scenario in (refused, away, deleted)}


def play(name: str, mode: Mode, length: Length, folder: Path, checkpoint: Path, say: Callable[[str], None]) -> Result:
    """One scenario, on a Kafka and a worker of its own."""
    if name == behind.__name__:
        with Stage(mode, folder, checkpoint, say, **{"engine.device": "simulated"}) as stage:
            return behind(stage, length)
    nodes = 3 if name == refused.__name__ else 1
    with Stage(mode, folder, checkpoint, say, nodes, **SETTINGS) as stage, Stream(stage) as stream:
        return SCENARIOS[name](stage, stream, length)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=Length.outage, help="how long an outage lasts")
    parser.add_argument("--client", choices=sorted({mode.client for mode in MODES}), help="one instead of both")
    parser.add_argument("--delivery", choices=sorted({mode.delivery for mode in MODES}), help="one instead of both")
    parser.add_argument("--only", choices=(*SCENARIOS, "behind"), action="append", help="may be given several times")
    options = parser.parse_args()
    modes = [m for m in MODES if options.client in (None, m.client) and options.delivery in (None, m.delivery)]
    length, failed = Length(outage=options.seconds), False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_checkpoint(folder / "random", review_texts())
        for mode, scenario in itertools.product(modes, options.only or [*SCENARIOS, "behind"]):

            def say(what: str, what_of: str = f"{mode} {scenario}") -> None:
                print(f"{what_of}: {what}", file=sys.stderr, flush=True)

            result = play(scenario, mode, length, folder, checkpoint, say)
            failed = failed or bool(result.wrong or result.slow)
            print(result.to_json(), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
