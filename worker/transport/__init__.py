"""Kafka behind one small interface; nothing outside this package imports a Kafka client."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.settings import Settings
    from worker.transport.interface import Transport


def make_transport(settings: Settings) -> Transport:
    """The transport that the settings ask for; `kafka.client=auto` takes librdkafka where it is installed.

    TransportConfigurationError when what they ask for is not there. Imports the client only now, so that `--help` is
    instant.
    """
    from worker.transport.interface import TransportConfigurationError

    kafka, exactly_once = settings.kafka, settings.delivery == "exactly_once"
    installed = find_spec("confluent_kafka") is not None
    if kafka.client == "librdkafka" or (kafka.client == "auto" and installed):
        if not installed:
            raise TransportConfigurationError("kafka.client=librdkafka needs the extra of that name: confluent-kafka")
        from worker.transport.librdkafka import LibrdkafkaTransport
        from worker.transport.librdkafka_exactly_once import LibrdkafkaExactlyOnceTransport

        return LibrdkafkaExactlyOnceTransport(settings) if exactly_once else LibrdkafkaTransport(settings)
    if kafka.group_protocol == "consumer":
        raise TransportConfigurationError("kafka.group_protocol=consumer needs librdkafka, which kafka.client excludes")
    from worker.transport.kafka_python import KafkaPythonTransport
    from worker.transport.kafka_python_exactly_once import ExactlyOnceTransport

    return ExactlyOnceTransport(settings) if exactly_once else KafkaPythonTransport(settings)
