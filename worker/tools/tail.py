"""`review-worker tail`: labelled results as they come, for a person's screen or one line of JSON each."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.configuration import load_settings
from worker.tools.connection import Config, Interrupt, connected, existing, parse_start, printable
from worker.transport.interface import Record
from worker.transport.start import offsets_at

if TYPE_CHECKING:
    from rich.text import Text

STYLES = {"negative": "red", "positive": "green"}
WORDS = 300  # characters of the text at most; the screen's width bounds it too


def tail_command(
    context: typer.Context,
    topic: Annotated[str | None, typer.Option(help="The output topic of the settings, if not given.")] = None,
    start: Annotated[str, typer.Option("--from", help="earliest, latest or a time (RFC 3339).")] = "latest",
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON for each record.")] = False,
) -> None:
    """Show labelled results as they come, until Ctrl-C: label, score, review and its first words.

    Settings such as --kafka.bootstrap_servers may follow.

    Example: review-worker tail --topic reviews.labelled --from earliest --count 20
    """
    from rich.console import Console

    from worker.transport.reader import read

    settings = load_settings(config, context.args)
    kafka = settings.kafka
    topic = topic or kafka.output_topic
    begin = parse_start(start, "--from")
    console = Console(highlight=False)
    with connected(kafka) as admin:
        existing(admin, kafka, topic)
        offsets = offsets_at(begin, admin.partitions(topic), admin)
        with Interrupt() as interrupt:
            print(f"{topic} from {start}; Ctrl-C ends", file=sys.stderr, flush=True)
            left = count
            for records in read(kafka, offsets, timeout=kafka.startup_timeout):
                for record in records[:left]:
                    if as_json:
                        sys.stdout.write(json_line(record) + "\n")
                    else:
                        console.print(line(record, settings.input.fields.text), no_wrap=True, overflow="ellipsis")
                sys.stdout.flush()
                left = left - len(records) if left is not None else None
                if interrupt.asked or (left is not None and left <= 0):
                    return


def json_line(record: Record) -> str:
    """The record's own JSON object on one line; what is none, with its coordinates, key and value as text."""
    if _as_object(record.value) is not None:
        text = (record.value or b"").decode()
        return text.replace("\r", " ").replace("\n", " ")  # between tokens: within strings JSON escapes them
    key, value = (part.decode(errors="replace") if part is not None else None for part in (record.key, record.value))
    place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
    return json.dumps({**place, "key": key, "value": value}, ensure_ascii=False)


def line(record: Record, text_field: str) -> Text:
    """One result for the screen; any other record as it is. `text_field`: dotted name of the text in the review."""
    from rich.text import Text

    result = _as_object(record.value)
    if result is None or not {"label", "score", "review_id"} <= result.keys():
        value = "null" if record.value is None else record.value.decode(errors="replace")
        return Text(f"{record.partition}-{record.offset}  {printable(value[:WORDS])}")
    label, text = str(result["label"]), _at(result.get("review"), text_field.split("."))
    return Text.assemble(
        (f"{printable(label):10} ", STYLES.get(label.lower(), "cyan")),
        (f"{result['score']:.3f}  ", "bold"),
        (f"{printable(str(result['review_id']))}  ", "dim"),
        printable(" ".join(str(text or "")[:WORDS].split())),
    )


def _as_object(value: bytes | None) -> dict[str, Any] | None:
    try:
        found = json.loads(value or b"null")
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _at(value: Any, path: Iterable[str]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
