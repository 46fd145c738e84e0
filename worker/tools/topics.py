"""`review-worker topics create`: input, output and dead-letter topic with sane settings; never alters any."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from worker.configuration import load_settings
from worker.settings import KafkaSettings
from worker.sizes import HEADER_ROOM
from worker.tools.connection import ANY_SETTING, AsJson, Config, connected, existing
from worker.transport.interface import TopicInfo

if TYPE_CHECKING:
    from worker.transport.admin import Admin

PARTITIONS = 12
REPLICATION = 3
DAY_MS = 86_400_000
LARGEST = 2**31 - 1  # Kafka's limit for a topic's message limit

SETTINGS = {  # name in Kafka: name here
    "max.message.bytes": "max_message_bytes",
    "cleanup.policy": "cleanup_policy",
    "min.insync.replicas": "min_insync_replicas",
    "retention.ms": "retention_ms",
}

topics_app = typer.Typer(no_args_is_help=True, help="Topics that the worker needs.")


@dataclass(frozen=True)
class Outcome:
    """One topic after `topics create`: what it is, and what it would be if it had been made now."""

    name: str
    created: bool
    info: TopicInfo
    sane: TopicInfo

    @property
    def differences(self) -> dict[str, tuple[Any, Any]]:
        """Setting: (what it is, what is sane)."""
        found, sane = asdict(self.info), asdict(self.sane)
        return {name: (found[name], sane[name]) for name in found if found[name] != sane[name]}

    def to_json(self) -> dict[str, Any]:
        differences = {name: {"is": found, "sane": sane} for name, (found, sane) in self.differences.items()}
        return {"topic": self.name, "created": self.created, **asdict(self.info), "differences": differences}

    def describe(self) -> str:
        """In words, for a person."""
        info = self.info
        words = [
            f"{self.name}: {'created' if self.created else 'exists'}, {info.partitions} partitions, "
            f"replication {info.replication_factor} (in sync at least {info.min_insync_replicas}), "
            f"messages of up to {info.max_message_bytes:,} bytes, {_kept(info.retention_ms)}"
        ]
        for name, (found, sane) in self.differences.items():
            words.append(f"  differs, and stays as it is: {name} is {found}, {sane} would be sane")
        return "\n".join(words)


@topics_app.command("create", context_settings=ANY_SETTING)
def create_command(context: typer.Context, config: Config = None, as_json: AsJson = False) -> None:
    """Make the input, output and dead-letter topic, where they do not exist, and wait until they can be used.

    A topic that exists is never altered: what differs is printed. Settings such as --kafka.input_topic=... may follow.

    Example: review-worker topics create --kafka.bootstrap_servers=broker:9092
    """
    kafka = load_settings(config, context.args).kafka
    with connected(kafka) as admin:
        outcomes = create(admin, kafka)
    if as_json:
        print(json.dumps({"topics": [outcome.to_json() for outcome in outcomes]}))
    else:
        for outcome in outcomes:
            print(outcome.describe())


def create(admin: Admin, kafka: KafkaSettings) -> list[Outcome]:
    """Makes what is missing. The inputs come first: what they are decides what the others should be."""
    found = {name: admin.topic(name) for name in kafka.input_topics}
    sane = sane_input([info for info in found.values() if info], admin.brokers())
    outcomes = [_ensure(admin, kafka, name, sane, is_input=True) for name in kafka.input_topics]
    limit = max(outcome.info.max_message_bytes for outcome in outcomes)
    sane = replace(sane, max_message_bytes=min(limit + HEADER_ROOM, LARGEST))
    outcomes.append(_ensure(admin, kafka, kafka.output_topic, sane))
    outcomes.append(_ensure(admin, kafka, kafka.dead_letter_topic, replace(sane, retention_ms=30 * DAY_MS)))
    return outcomes


def sane_input(inputs: Iterable[TopicInfo], brokers: int) -> TopicInfo:
    """What an input topic should be; where some exist, their largest partition count wins. Its message limit is left
    to the cluster, so 0 here."""
    replication = min(REPLICATION, brokers)
    return TopicInfo(
        partitions=max((info.partitions for info in inputs), default=PARTITIONS),
        max_message_bytes=0,
        cleanup_policy="delete",
        min_insync_replicas=2 if replication == REPLICATION else 1,
        replication_factor=replication,
        retention_ms=7 * DAY_MS,
    )


def _ensure(admin: Admin, kafka: KafkaSettings, name: str, sane: TopicInfo, *, is_input: bool = False) -> Outcome:
    from worker.transport.admin import NewTopic

    config = {name: str(value) for name, field in SETTINGS.items() if (value := getattr(sane, field))}
    created = admin.create_topics([NewTopic(name, sane.partitions, sane.replication_factor, config)])
    info = existing(admin, kafka, name)
    if is_input:
        sane = replace(sane, partitions=info.partitions, max_message_bytes=info.max_message_bytes)
    return Outcome(name, bool(created), info, sane)


def _kept(retention_ms: int) -> str:
    return "kept for ever" if retention_ms < 0 else f"kept for {retention_ms / DAY_MS:g} days"
