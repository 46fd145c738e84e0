"""Kafka behind one small interface; nothing outside this package imports a Kafka client."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.transport.interface import Transport


def make_transport(settings: Settings) -> Transport:
    """The transport that `kafka.client` names. Imports the client only now, so that `--help` is instant."""
    if settings.delivery == "exactly_once":
        from worker.transport.kafka_python_exactly_once import ExactlyOnceTransport

        return ExactlyOnceTransport(settings)
    from worker.transport.kafka_python import KafkaPythonTransport

    return KafkaPythonTransport(settings)
