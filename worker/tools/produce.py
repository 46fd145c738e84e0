"""`review-worker produce`: a data file onto a topic as review events, at a steady rate or at full speed."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from schemas.datafiles import DataFileError
from worker.configuration import ConfigurationError, load_settings
from worker.settings import KafkaSettings
from worker.sizes import batch_bytes
from worker.tools.connection import AsJson, Config, Interrupt, connected, existing
from worker.tools.events import note_bad_row, read_events, skipped
from worker.transport.interface import DeliveryFailed, TransportFault

T = TypeVar("T")


class Event(NamedTuple):
    """What to produce, and the place in the file that it comes from."""

    place: str
    key: bytes | None
    value: bytes


class Deliveries:
    """Counts what the broker acknowledged; keeps the first refusal. Called from the client's thread."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.refused: str | None = None

    def __call__(self, place: str, error: DeliveryFailed | None) -> None:
        if error is None:
            self.acknowledged += 1
        elif self.refused is None:
            self.refused = f"{place} was not delivered: {error}"


def parse_rate(text: str) -> float:
    """`500` or `500/s`."""
    try:
        rate = float(text.removesuffix("/s"))
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise typer.BadParameter(f"{text}: not a rate such as 500/s")
    return rate


def produce_command(
    context: typer.Context,
    input: Annotated[str, typer.Option(help="CSV, JSONL or Parquet, optionally compressed.")],
    topic: Annotated[str | None, typer.Option(help="The input topic of the settings, if not given.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(parser=parse_rate, metavar="N/s", help="Each event at its time, however long sending takes."),
    ] = None,
    count: Annotated[int | None, typer.Option(min=1, help="End after so many.")] = None,
    loop: Annotated[bool, typer.Option(help="Begin the file again when it ends.")] = False,
    skip_bad_rows: Annotated[bool, typer.Option(help="Go on without rows that cannot be sent; else stop.")] = False,
    raw: Annotated[bool, typer.Option(help="Send each line of the file as it is, whatever it holds, no key.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Send a file of reviews to a topic. The key is the product's id where there is one, else the review's.

    Ctrl-C ends it with the count of what Kafka has acknowledged. Settings such as --kafka.bootstrap_servers may follow.

    Example: review-worker produce --input reviews.csv --topic reviews --rate 100/s
    """
    from rich.console import Console
    from rich.live import Live

    from worker.transport.writer import TopicWriter

    kafka = load_settings(config, context.args).kafka
    topic = topic or only_input(kafka)
    deliveries, bad, sent = Deliveries(), list[str](), 0
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def progress() -> str:
        of = f" of {count:,}" if count else ""
        rate_now = deliveries.acknowledged / max(time.monotonic() - started, 1e-9)
        return f"{deliveries.acknowledged:,}{of} acknowledged, {rate_now:,.0f}/s"

    with connected(kafka) as admin:
        limit = existing(admin, kafka, topic).max_message_bytes
        events = itertools.islice(
            read_file(input, limit, raw=raw, loop=loop, skip_bad_rows=skip_bad_rows, bad=bad), count
        )
        with TopicWriter(kafka, deliveries, kafka.startup_timeout) as writer, Interrupt() as interrupt:
            started = time.monotonic()
            try:
                with Live(get_renderable=progress, console=console, transient=True):
                    try:
                        for event in paced(events, rate, time.monotonic, interrupt.sleep):
                            if interrupt.asked or deliveries.refused:
                                break
                            writer.send(topic, event.key, event.value, token=event.place)
                            sent += 1
                    finally:  # also when a bad row stops it: what went before is delivered
                        interrupt.flush(writer, kafka.outage_deadline)
            finally:
                _report(console, topic, deliveries, sent, bad, time.monotonic() - started, as_json=as_json)
        if deliveries.refused or deliveries.acknowledged < sent:
            raise TransportFault(
                deliveries.refused or f"{sent - deliveries.acknowledged} were not acknowledged when it was stopped"
            )


def _report(
    console: Any, topic: str, deliveries: Deliveries, sent: int, bad: list[str], seconds: float, *, as_json: bool
) -> None:
    produced = deliveries.acknowledged
    rate = produced / seconds if seconds else 0.0
    for line in skipped(bad):
        console.print(line, style="yellow", markup=False)
    without = f", {len(bad):,} rows skipped" if bad else ""
    console.print(f"{produced:,} produced to {topic} in {seconds:.1f} s, {rate:,.0f}/s{without}", markup=False)
    if as_json:
        summary = {"topic": topic, "produced": produced, "unacknowledged": sent - produced, "skipped": len(bad)}
        print(json.dumps({**summary, "seconds": round(seconds, 3), "records_per_second": rate}))


def only_input(kafka: KafkaSettings) -> str:
    """The input topic of the settings; ConfigurationError where there are several."""
    if len(kafka.input_topics) > 1:
        raise ConfigurationError(f"the settings name several input topics: say which with --topic {kafka.input_topics}")
    return kafka.input_topics[0]


def paced(
    items: Iterator[T], rate: float | None, now: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[T]:
    """Item n no earlier than n / rate seconds after the first: an open loop, late ones follow at once."""
    started = now()
    for number, item in enumerate(items):
        if rate and (ahead := started + number / rate - now()) > 0:
            sleep(ahead)
        yield item


def read_file(path: str, limit: int, *, raw: bool, loop: bool, skip_bad_rows: bool, bad: list[str]) -> Iterator[Event]:
    """Events of the file, over and over with `loop`; bad rows are noted the first time. `limit`: bytes a message."""
    while True:
        seen = False
        for event in _raw(path) if raw else _events(path, skip_bad_rows=skip_bad_rows, bad=bad):
            size = batch_bytes(event.key, event.value, ())
            if size > limit:
                problem = f"{event.place}: {size:,} bytes, the topic takes {limit:,}"
                note_bad_row(problem, skip_bad_rows=skip_bad_rows, bad=bad)
            else:
                seen = True
                yield event
        if not loop or not seen:
            return
        bad = []


def _events(path: str, *, skip_bad_rows: bool, bad: list[str]) -> Iterator[Event]:
    for row, value in read_events(path, skip_bad_rows=skip_bad_rows, bad=bad):
        yield Event(row.place, key_of(value), value)


def key_of(event: bytes) -> bytes:
    """The product's id, so that its reviews keep their order; else the review's own."""
    fields = json.loads(event)
    product = fields.get("product_id")
    return str(fields["review_id"] if product is None else product).encode()


def _raw(path: str) -> Iterator[Event]:
    import fsspec

    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            for number, line in enumerate(file, start=1):
                yield Event(f"{path}:{number}", None, line.removesuffix(b"\n"))
    except (OSError, EOFError, ValueError) as error:
        raise DataFileError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
