"""What consumer and producer over librdkafka have in common: configuration, errors, and a group's offset lookups."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaPartition

from worker.settings import KafkaSettings
from worker.transport.admin import Admin
from worker.transport.interface import Offsets, Record, TopicPartition, TransportUnavailable
from worker.transport.sparing import Sparing

LOOKUP_SECONDS = 10.0
MOST_BYTES = 1_000_000_000  # librdkafka's own limit on a message

log = logging.getLogger("librdkafka")
log.addHandler(logging.NullHandler())  # a command that set up no logging prints none of it
log.addFilter(Sparing())


def complain(error: KafkaError) -> None:
    log.warning("%s", error.str())


def client_config(kafka: KafkaSettings) -> dict[str, Any]:
    """Settings that every client shares, in librdkafka's names; absent ones are left to it."""
    password, key_password = kafka.sasl_password, kafka.ssl_key_password
    config = {
        "bootstrap.servers": kafka.bootstrap_servers,
        "client.id": "review-worker",
        "security.protocol": kafka.security_protocol,
        "reconnect.backoff.max.ms": 1000,
        "topic.metadata.refresh.interval.ms": 30_000,
        "socket.timeout.ms": 15_000,
        "allow.auto.create.topics": False,
        "enable.metrics.push": False,
        "log.queue": True,  # and nobody reads it: given a logger, the binding can abort the process when a client ends
        "log_level": 0,
        "error_cb": complain,
        "sasl.mechanism": kafka.sasl_mechanism,
        "sasl.username": kafka.sasl_username,
        "sasl.password": password.get_secret_value() if password else None,
        "ssl.ca.location": kafka.ssl_cafile and str(kafka.ssl_cafile),
        "ssl.certificate.location": kafka.ssl_certfile and str(kafka.ssl_certfile),
        "ssl.key.location": kafka.ssl_keyfile and str(kafka.ssl_keyfile),
        "ssl.key.password": key_password.get_secret_value() if key_password else None,
    }
    return {name: value for name, value in config.items() if value is not None}


def cause(error: KafkaException) -> KafkaError:
    """What an exception of the client is about."""
    return error.args[0] if isinstance(error.args[0], KafkaError) else KafkaError(KafkaError._FAIL, str(error))


def native(offsets: Offsets) -> list[KafkaPartition]:
    return [KafkaPartition(tp.topic, tp.partition, offset) for tp, offset in offsets.items()]


def to_record(message: Message) -> Record:
    return Record(
        message.topic(),
        message.partition(),
        message.offset(),
        message.timestamp()[1],
        message.key(),
        message.value(),
        tuple(message.headers() or ()),
    )


def read_membership(metadata: bytes) -> tuple[int, bytes]:
    """Generation (or epoch, with KIP-848) and member id out of librdkafka's serialised group metadata. The former is
    not positive, or the latter empty, where there is no membership."""
    body = metadata.removeprefix(b"CGMDv2:")
    if not body:
        return -1, b""
    return int.from_bytes(body[:4], sys.byteorder, signed=True), body[4:].split(b"\0")[1]


class Lookup:
    """What the rules of the start ask; every answer within ten seconds, or a KafkaException."""

    def __init__(self, consumer: Consumer, admin: Admin) -> None:
        self._consumer, self._admin = consumer, admin

    def partitions(self, topic: str) -> Collection[TopicPartition]:
        """Not from the consumer: after its `list_topics` in a rebalance the binding aborts the process at the next."""
        try:
            return self._admin.partitions(topic)
        except TransportUnavailable as error:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, str(error))) from error

    def committed(self, partitions: Collection[TopicPartition]) -> Offsets:
        return self._known(self._consumer.committed(native(dict.fromkeys(partitions, 0)), LOOKUP_SECONDS))

    def commit(self, offsets: Offsets) -> None:
        self._known(self._consumer.commit(offsets=native(offsets), asynchronous=False))

    def beginning(self, partitions: Collection[TopicPartition]) -> Offsets:
        return self.at_time(partitions, OFFSET_BEGINNING)

    def end(self, partitions: Collection[TopicPartition]) -> Offsets:
        return self.at_time(partitions, OFFSET_END)

    def at_time(self, partitions: Collection[TopicPartition], timestamp: int) -> Offsets:
        asked = native(dict.fromkeys(partitions, timestamp))
        return self._known(self._consumer.offsets_for_times(asked, LOOKUP_SECONDS))

    def _known(self, answers: list[KafkaPartition]) -> Offsets:
        for answer in answers:
            if answer.error is not None:
                raise KafkaException(answer.error)
        return {
            TopicPartition(answer.topic, answer.partition): answer.offset for answer in answers if answer.offset >= 0
        }
