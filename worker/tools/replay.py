"""`review-worker dead-letters replay`: letters back to where they came from, and each once only."""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from schemas.dead_letter import RejectReason
from worker.configuration import ConfigurationError, load_settings
from worker.settings import KafkaSettings
from worker.tools.connection import AsJson, Config, Interrupt, connected, existing, parse_time
from worker.tools.letters import MAXIMUM_ATTEMPTS, Choice, Letter, Progress, Refusal, refusal
from worker.transport.interface import DeliveryFailed, Record, TopicInfo, TopicPartition, TransportFault

if TYPE_CHECKING:
    from rich.console import Console

    from worker.transport.admin import Admin
    from worker.transport.writer import TopicWriter

KEPT_MS = 10 * 365 * 86_400_000  # letters outlive the 7 days that brokers keep offsets of a group without members
COMMIT_SECONDS = 2.0  # what an interrupted run repeats at worst
NAMED = 10  # refused letters of a kind that are named; the rest are counted

Reason = Annotated[RejectReason | None, typer.Option(help="Only letters of this reason.")]
Since = Annotated[str | None, typer.Option("--from", help="Only letters that failed at this time or later (RFC 3339).")]
Until = Annotated[str | None, typer.Option("--to-time", help="Only letters that failed before this time (RFC 3339).")]


def replay_command(
    context: typer.Context,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    to: Annotated[str | None, typer.Option(help="Topic to send to, instead of the one each came from.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Only show what would be sent.")] = False,
    force: Annotated[bool, typer.Option(help=f"Also letters with more than {MAXIMUM_ATTEMPTS} attempts.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again: key, value and headers as they were, and one header that counts the attempts.

    Which were sent is kept in the consumer group GROUP.replay, so that each goes once however often this is run; a
    run that is cut off repeats some seconds at worst. Letters not chosen, and those refused for their attempts, wait
    for another run.

    Example: review-worker dead-letters replay --reason model_failure --limit 100 --dry-run
    """
    from rich.console import Console
    from rich.live import Live

    kafka = load_settings(config, context.args).kafka
    choice = choose(reason, since, until)
    if to == kafka.dead_letter_topic:
        raise ConfigurationError(f"--to {to}: this is the dead-letter topic itself")
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with connected(kafka) as admin, Interrupt() as interrupt:
        replay = Replay(admin, kafka, choice, to, console, force=force, dry_run=dry_run)
        try:
            with Live(get_renderable=lambda: f"{replay.sent:,} letters sent", console=console, transient=True):
                replay.run(interrupt, limit)
        finally:
            console.print(replay.describe())
            if as_json:
                print(json.dumps(replay.to_json()))


def choose(reason: RejectReason | None, since: str | None, until: str | None) -> Choice:
    """The choice that the options stand for."""
    return Choice(
        reason, parse_time(since, "--from") if since else None, parse_time(until, "--to-time") if until else None
    )


def progress_group(kafka: KafkaSettings) -> str:
    """The consumer group that keeps which letters were replayed."""
    return f"{kafka.group_id}.replay"


def load_progress(
    admin: Admin, kafka: KafkaSettings, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, Progress]:
    """How far replaying has come."""
    offsets, notes = admin.committed(progress_group(kafka)), admin.notes(progress_group(kafka))
    beginning, end = admin.beginning(partitions), admin.end(partitions)
    result = {}
    for tp in partitions:
        progress = Progress(offsets.get(tp, 0), notes.get(tp, ""))
        if progress.seen > end[tp]:  # of an earlier topic of this name
            progress = Progress()
        progress.forget_below(beginning[tp])
        result[tp] = progress
    return result


class Sent(NamedTuple):
    """A letter on its way."""

    partition: TopicPartition
    offset: int
    to: str


class Replay:
    """One run. ConfigurationError where a topic does not exist."""

    def __init__(
        self,
        admin: Admin,
        kafka: KafkaSettings,
        choice: Choice,
        to: str | None,
        console: Console,
        *,
        force: bool,
        dry_run: bool,
    ) -> None:
        self._admin, self._kafka, self._choice, self._console = admin, kafka, choice, console
        self._to, self._force, self._dry_run = to, force, dry_run
        existing(admin, kafka, kafka.dead_letter_topic)
        self._partitions = admin.partitions(kafka.dead_letter_topic)
        self._progress = load_progress(admin, kafka, self._partitions)
        self._targets: dict[str, TopicInfo] = {to: existing(admin, kafka, to)} if to else {}
        self._acknowledged: deque[Sent] = deque()  # filled from the client's thread
        self._failed: str | None = None
        self.sent = 0
        self._replayed: Counter[str] = Counter()
        self._refused: Counter[Refusal] = Counter()
        self._not_chosen = 0

    def run(self, interrupt: Interrupt, limit: int | None) -> None:
        """Until every letter was looked at, `limit` were sent or an end is asked for. TransportFault when a letter
        was not delivered."""
        from worker.transport.writer import TopicWriter

        kafka = self._kafka
        if self._dry_run:
            self._send_all(None, interrupt, limit)
            return
        with TopicWriter(kafka, self._delivered, kafka.startup_timeout) as writer:
            try:
                self._send_all(writer, interrupt, limit)
            finally:
                complete = interrupt.flush(writer, kafka.outage_deadline)
                self._commit()
        if self._failed or not complete:
            raise TransportFault(self._failed or f"{self.sent - self._replayed.total()} were not acknowledged")

    def _send_all(self, writer: TopicWriter | None, interrupt: Interrupt, limit: int | None) -> None:
        from worker.transport.reader import read

        start = {tp: progress.to_commit()[0] for tp, progress in self._progress.items()}
        end = self._admin.end(self._partitions)
        committed_at = time.monotonic()
        for records in read(self._kafka, start, end, self._kafka.startup_timeout):
            for record in records:
                if interrupt.asked or self._failed or self.sent == limit:
                    return
                self._look_at(record, writer)
            if writer and time.monotonic() - committed_at > COMMIT_SECONDS:
                self._commit()
                committed_at = time.monotonic()
        for tp, progress in self._progress.items():
            progress.reach(end[tp])

    def _look_at(self, record: Record, writer: TopicWriter | None) -> None:
        partition = TopicPartition(record.topic, record.partition)
        progress = self._progress[partition]
        if not progress.waits(record.offset):
            return
        progress.look(record.offset)
        try:
            letter = Letter.read(record)
        except ValueError:
            self._refuse(Refusal.NOT_A_DEAD_LETTER, progress, record, "")
            return
        if letter not in self._choice:
            self._not_chosen += 1
            return
        target, info = self._target(letter)
        refused = refusal(letter, info.max_message_bytes, force=self._force)
        if refused:
            self._refuse(refused, progress, record, f" from {letter.info.source}")
            return
        self.sent += 1
        sent = Sent(partition, record.offset, target)
        if writer is None:
            self._console.print(f"would send {letter.name} ({letter.info.reason}) to {target}")
            self._acknowledged.append(sent)
        else:
            number = letter.source[1] % info.partitions
            writer.send(target, record.key, record.value, letter.restored_headers(), partition=number, token=sent)

    def _target(self, letter: Letter) -> tuple[str, TopicInfo]:
        name = self._to or letter.source[0]
        if name not in self._targets:
            info = self._admin.topic(name)
            if info is None:
                raise ConfigurationError(f"dead letter {letter.name} is from topic {name!r}, which is gone: give --to")
            self._targets[name] = info
        return name, self._targets[name]

    def _refuse(self, why: Refusal, progress: Progress, record: Record, source: str) -> None:
        self._refused[why] += 1
        if self._refused[why] <= NAMED:
            self._console.print(f"refused {record.partition}-{record.offset}{source}: {why.explanation}")
        if why.final:
            progress.settle(record.offset)

    def _delivered(self, sent: Sent, error: DeliveryFailed | None) -> None:
        if error is None:
            self._acknowledged.append(sent)
        elif self._failed is None:
            self._failed = f"dead letter {sent.partition.partition}-{sent.offset} was not delivered: {error}"

    def _settle(self) -> None:
        while self._acknowledged:
            sent = self._acknowledged.popleft()
            self._replayed[sent.to] += 1
            self._progress[sent.partition].settle(sent.offset)

    def _commit(self) -> None:
        self._settle()
        found = {tp: progress.to_commit() for tp, progress in self._progress.items()}
        offsets = {tp: offset for tp, (offset, _) in found.items()}
        notes = {tp: note for tp, (_, note) in found.items()}
        self._admin.commit(progress_group(self._kafka), offsets, notes, KEPT_MS)

    def describe(self) -> str:
        """The end of the run in words."""
        self._settle()
        sent = [f"{count:,} to {topic}" for topic, count in self._replayed.items()]
        words = [f"{'would replay' if self._dry_run else 'replayed'} {' and '.join(sent) or 'nothing'}"]
        words += [f"{count:,} refused ({why})" for why, count in self._refused.items()]
        words += [f"{self._not_chosen:,} not chosen"] if self._not_chosen else []
        return ", ".join(words)

    def to_json(self) -> dict[str, Any]:
        self._settle()
        refused = {why.value: self._refused[why] for why in Refusal}
        return {"replayed": self._replayed.total(), "topics": dict(self._replayed), "refused": refused,
                "not_chosen": self._not_chosen, "dry_run": self._dry_run}  # fmt: skip
