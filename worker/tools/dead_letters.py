"""`review-worker dead-letters list|show`: what was rejected and why; `replay` is in its own file."""

from __future__ import annotations

import heapq
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from schemas.headers import parse_source
from worker.configuration import ConfigurationError, load_settings
from worker.settings import KafkaSettings
from worker.tools.connection import ANY_SETTING, AsJson, Config, connected, existing, print_table, printable
from worker.tools.letters import Choice, Letter
from worker.tools.replay import Reason, Since, Until, choose, load_progress, replay_command
from worker.transport.interface import Offsets, TopicPartition

if TYPE_CHECKING:
    from worker.transport.admin import Admin

dead_letters_app = typer.Typer(no_args_is_help=True, help="Rejected records: what they are, and sending them again.")


@dead_letters_app.command("list", context_settings=ANY_SETTING)
def list_command(
    context: typer.Context,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, help="Letters to show, the latest; all are counted.")] = 20,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Count dead letters by reason and show the latest; those marked "waits" were not replayed yet.

    Example: review-worker dead-letters list --reason invalid_json --from 2026-05-01T00:00:00Z
    """
    kafka = load_settings(config, context.args).kafka
    choice = choose(reason, since, until)
    with connected(kafka) as admin:
        partitions = _partitions(admin, kafka)
        progress = load_progress(admin, kafka, partitions)
        counts: Counter[str] = Counter()
        waiting = 0

        def waits(letter: Letter) -> bool:
            return progress[TopicPartition(letter.record.topic, letter.record.partition)].waits(letter.record.offset)

        def chosen() -> Iterator[Letter]:
            nonlocal waiting
            for letter in read_letters(kafka, admin.beginning(partitions), admin.end(partitions)):
                if letter in choice:
                    counts[letter.info.reason] += 1
                    waiting += waits(letter)
                    yield letter

        latest = heapq.nlargest(limit, chosen(), key=lambda letter: letter.info.failed_at)
    if as_json:
        letters = [{**summary(letter), "waits": waits(letter)} for letter in latest]
        print(json.dumps({"total": counts.total(), "waiting": waiting, "reasons": counts, "letters": letters}))
        return
    if not counts:
        print(f"no dead letters{'' if choice == Choice() else ' of this kind'} in {kafka.dead_letter_topic}")
        return
    print_table(["reason", "letters"], counts.most_common())
    print(f"{counts.total():,} dead letters in {kafka.dead_letter_topic}, {waiting:,} of them not replayed yet\n")
    print_table(
        ["letter", "source", "reason", "stage", "attempt", "failed at", "", "error"],
        ([letter.name, letter.info.source, letter.info.reason, letter.info.stage, letter.info.attempt,
          letter.info.failed_at.isoformat(" ", "seconds"), "waits" if waits(letter) else "",
          printable(letter.info.error)] for letter in latest),
    )  # fmt: skip


@dead_letters_app.command("show", context_settings=ANY_SETTING)
def show_command(
    context: typer.Context,
    letter: Annotated[
        str, typer.Argument(help="PARTITION-OFFSET of the letter, or its source TOPIC-PARTITION-OFFSET.")
    ],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show a dead letter whole: why it failed, all headers, key and value, as text or else in hexadecimal.

    A source is searched for in the whole topic; settings such as --kafka.dead_letter_topic=... follow the letter.

    Example: review-worker dead-letters show 3-1507
    """
    if letter.startswith("-"):
        raise ConfigurationError(f"name the letter first, then settings such as {letter}")
    kafka = load_settings(config, context.args).kafka
    with connected(kafka) as admin:
        partitions = _partitions(admin, kafka)
        beginning, end = admin.beginning(partitions), admin.end(partitions)
        if re.fullmatch(r"\d+-\d+", letter):
            number, offset = map(int, letter.split("-"))
            partition = TopicPartition(kafka.dead_letter_topic, number)
            if not beginning.get(partition, 0) <= offset < end.get(partition, 0):
                raise ConfigurationError(f"no letter {letter} in {kafka.dead_letter_topic}")
            found = list(read_letters(kafka, {partition: offset}, {partition: offset + 1}))
        else:
            source = _source(letter)
            found = [each for each in read_letters(kafka, beginning, end) if each.source == source]
    if not found:
        raise ConfigurationError(f"no letter {letter} in {kafka.dead_letter_topic}")
    if as_json:
        print(json.dumps({"letters": [to_json(each) for each in found]}))
        return
    for each in found:
        print(describe(each))


dead_letters_app.command("replay", context_settings=ANY_SETTING)(replay_command)


def read_letters(kafka: KafkaSettings, start: Offsets, end: Offsets) -> Iterator[Letter]:
    """The letters there; what is none is passed over."""
    from worker.transport.reader import read

    for records in read(kafka, start, end, kafka.startup_timeout):
        for record in records:
            try:
                yield Letter.read(record)
            except ValueError:
                continue


def summary(letter: Letter) -> dict[str, Any]:
    """What a list says of a letter."""
    return {"letter": letter.name, **letter.info.model_dump(mode="json")}


def to_json(letter: Letter) -> dict[str, Any]:
    """All of a letter; bytes as `{"text": …}`, as `{"hex": …}` where they are not UTF-8, or null."""
    record = letter.record
    return {
        **summary(letter),
        "key": _bytes(record.key),
        "headers": [[name, _bytes(value)] for name, value in letter.own],
        "value": _bytes(record.value),
    }


def describe(letter: Letter) -> str:
    """All of a letter for the screen."""
    content = to_json(letter)
    headers, value = content.pop("headers"), content.pop("value")
    rows = [(name, printable(_shown(what) if name == "key" else str(what))) for name, what in content.items()]
    rows += [(f"header {printable(name)}", printable(_shown(what))) for name, what in headers]
    width = max(len(name) for name, _ in rows)
    return "\n".join([*(f"{name:{width}}  {what}" for name, what in rows), "value", printable(_shown(value)), ""])


def _bytes(content: bytes | None) -> dict[str, str] | None:
    if content is None:
        return None
    try:
        return {"text": content.decode()}
    except UnicodeDecodeError:
        return {"hex": content.hex()}


def _shown(content: dict[str, str] | None) -> str:
    if content is None:
        return "null"
    return content["text"] if "text" in content else f"hex {content['hex']}"


def _source(text: str) -> tuple[str, int, int]:
    try:
        return parse_source(text.encode())
    except ValueError:
        raise ConfigurationError(f"{text}: neither PARTITION-OFFSET nor TOPIC-PARTITION-OFFSET") from None


def _partitions(admin: Admin, kafka: KafkaSettings) -> list[TopicPartition]:
    existing(admin, kafka, kafka.dead_letter_topic)
    return admin.partitions(kafka.dead_letter_topic)
