"""`review-worker offsets`: where the group stands, and, while it does not run, moving it: to a time, past a range."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from worker.configuration import ConfigurationError, load_settings
from worker.settings import KafkaSettings
from worker.tools.connection import ANY_SETTING, AsJson, Config, connected, existing, parse_start, print_table
from worker.transport.interface import Offsets, TopicPartition
from worker.transport.start import TopicOffsets, offsets_at

if TYPE_CHECKING:
    from worker.transport.admin import Admin

offsets_app = typer.Typer(no_args_is_help=True, help="Where the consumer group stands in its input, and moving it.")

Topics = Annotated[
    list[str] | None, typer.Option("--topic", help="The input topics of the settings, if not given; may be repeated.")
]


@offsets_app.command("show", context_settings=ANY_SETTING)
def show_command(context: typer.Context, topic: Topics = None, config: Config = None, as_json: AsJson = False) -> None:
    """Committed offset, first and end offset and lag of every partition.

    Example: review-worker offsets show --kafka.group_id=review-worker
    """
    kafka = load_settings(config, context.args).kafka
    with connected(kafka) as admin:
        partitions = _partitions(admin, kafka, topic)
        committed, active = admin.committed(kafka.group_id), admin.active(kafka.group_id)
        beginning, end = admin.beginning(partitions), admin.end(partitions)
    lags = {tp: lag(committed.get(tp), beginning[tp], end[tp]) for tp in partitions}
    if as_json:
        rows = [
            {
                **tp._asdict(),
                "committed": committed.get(tp),
                "beginning": beginning[tp],
                "end": end[tp],
                "lag": lags[tp],
            }
            for tp in partitions
        ]
        total = sum(lags.values())
        print(json.dumps({"group": kafka.group_id, "active": active, "lag": total, "partitions": rows}))
        return
    print_table(
        ["partition", "committed", "beginning", "end", "lag"],
        (
            [_name(tp), shown(committed.get(tp), beginning[tp], end[tp]), beginning[tp], end[tp], lags[tp]]
            for tp in partitions
        ),
    )
    print(f"group {kafka.group_id}: {'running' if active else 'not running'}, {sum(lags.values()):,} records behind")


@offsets_app.command("set", context_settings=ANY_SETTING)
def set_command(
    context: typer.Context,
    to: Annotated[str, typer.Option(help="A time (RFC 3339), an offset, earliest or latest.")],
    partition: Annotated[list[int] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    topic: Topics = None,
    dry_run: Annotated[bool, typer.Option(help="Only show what would be set.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Move the group: its next start reads from there. Refused while it runs.

    A time means the first record at or after it, or the end of a partition that has none.

    Example: review-worker offsets set --to 2026-05-01T12:00:00Z --dry-run
    """
    kafka = load_settings(config, context.args).kafka
    group = kafka.group_id
    with connected(kafka) as admin:
        partitions = _partitions(admin, kafka, topic, partition)
        new = resolve(to, partitions, admin)
        if not dry_run and admin.active(group):
            raise ConfigurationError(
                f"group {group!r} is running: stop its workers first (one that was killed counts until its session "
                f"ends, {kafka.session_timeout:g} s with these settings)"
            )
        old = admin.committed(group)
        if not dry_run:
            admin.commit(group, new)
    if as_json:
        rows = [{**tp._asdict(), "old": old.get(tp), "new": new[tp]} for tp in partitions]
        print(json.dumps({"group": group, "dry_run": dry_run, "partitions": rows}))
        return
    print_table(["partition", "old", "new"], ([_name(tp), old.get(tp, "none"), new[tp]] for tp in partitions))
    print(f"group {group}: {'nothing set, this was a dry run' if dry_run else 'set'}")


def lag(committed: int | None, beginning: int, end: int) -> int:
    """Records not yet done: of those that the topic still holds, where the group stands before them or nowhere."""
    return end - min(max(committed or 0, beginning), end)


def shown(committed: int | None, beginning: int, end: int) -> str:
    """The committed offset for a person; a worker does not start from one that the topic does not hold."""
    if committed is None:
        return "none"
    return str(committed) if beginning <= committed <= end else f"{committed} (out of range)"


def resolve(to: str, partitions: Collection[TopicPartition], lookup: TopicOffsets) -> Offsets:
    """The offset of each partition that `to` stands for; ConfigurationError where it makes no sense."""
    if not re.fullmatch(r"-?\d+", to):
        return offsets_at(parse_start(to, "--to"), partitions, lookup)
    if len(partitions) > 1:
        raise ConfigurationError(f"--to {to}: offsets differ from partition to partition; say --topic and --partition")
    beginning, end = lookup.beginning(partitions), lookup.end(partitions)
    for tp in partitions:
        if not beginning[tp] <= int(to) <= end[tp]:
            raise ConfigurationError(f"--to {to}: out of range, {_name(tp)} holds {beginning[tp]} to {end[tp]}")
    return {tp: int(to) for tp in partitions}


def _partitions(
    admin: Admin, kafka: KafkaSettings, topics: list[str] | None, only: list[int] | None = None
) -> list[TopicPartition]:
    found = []
    for topic in topics or kafka.input_topics:
        count = existing(admin, kafka, topic).partitions
        for number in only or ():
            if not 0 <= number < count:
                raise ConfigurationError(f"--partition {number}: {topic} has {count} partitions, 0 to {count - 1}")
        found += [TopicPartition(topic, number) for number in sorted(set(only or range(count)))]
    return found


def _name(partition: TopicPartition) -> str:
    return f"{partition.topic}-{partition.partition}"
