"""What the tools that talk to Kafka have in common: options, reaching the cluster, points in time, ending on Ctrl-C.

Knows nothing of reviews. Heavy imports are inside functions, so that `--help` is instant.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from worker.configuration import ConfigurationError
from worker.settings import KafkaSettings
from worker.transport.interface import TopicInfo, TransportFault

if TYPE_CHECKING:
    from worker.transport.admin import Admin
    from worker.transport.writer import TopicWriter

ANY_SETTING = {"allow_extra_args": True, "ignore_unknown_options": True}

Config = Annotated[Path | None, typer.Option(help="Settings file (TOML).", envvar="WORKER_CONFIG")]
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON on standard output.")]

STOP_SECONDS = 5.0  # how long Ctrl-C waits for what is on its way


@contextmanager
def connected(kafka: KafkaSettings) -> Iterator[Admin]:
    """The cluster; what breaks while it is used becomes one line on standard error and exit code 1."""
    from rich.console import Console

    from worker.transport.admin import Admin

    with Console(stderr=True).status(f"Reaching Kafka at {kafka.bootstrap_servers}"):
        admin = Admin(kafka, kafka.startup_timeout)
    with admin:
        try:
            yield admin
        except TransportFault as error:
            print(f"review-worker: {error}", file=sys.stderr)
            raise typer.Exit(1) from None


def existing(admin: Admin, kafka: KafkaSettings, topic: str) -> TopicInfo:
    """The topic's settings; ConfigurationError where there is none."""
    info = admin.topic(topic)
    if info is None:
        raise ConfigurationError(
            f"topic {topic!r} does not exist on {kafka.bootstrap_servers}; make it: review-worker topics create"
        )
    return info


def parse_time(text: str, option: str) -> datetime:
    """RFC 3339; a time without a zone could mean either of two, so it is refused."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option} {text}: not a time such as 2026-05-01T12:00:00Z") from None
    if moment.tzinfo is None:
        raise ConfigurationError(f"{option} {text}: say which time zone, as in 2026-05-01T12:00:00Z")
    return moment


def parse_start(text: str, option: str) -> Literal["earliest", "latest"] | datetime:
    """`earliest`, `latest` or a time."""
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    return parse_time(text, option)


class Interrupt:
    """Whether Ctrl-C or SIGTERM asked for an end; once asked for, a second one is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._signalled) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def sleep(self, seconds: float) -> None:
        """Sleeps that long, or until soon after an end was asked for."""
        until = time.monotonic() + seconds
        while not self.asked and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def flush(self, writer: TopicWriter, patience: float) -> bool:
        """Waits for all deliveries, `patience` seconds or shorter when an end is asked for; whether it has them."""
        until = time.monotonic() + patience
        while not writer.flush(0.1):
            if self.asked:
                until = min(until, time.monotonic() + STOP_SECONDS)
            if time.monotonic() > until:
                return False
        return True


def printable(text: str) -> str:
    """Without what would steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned and whole, however wide: so that it can be searched."""
    lines = [list(map(str, row)) for row in [columns, *rows]]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
