"""What every use of kafka-python 3.0.12 here has in common: its configuration, reaching a broker, describing a topic.

Knows nothing of groups, transactions or of what is read and written.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient, errors
from kafka.future import Future as KafkaFuture
from kafka.protocol.admin import DescribeConfigsRequest
from kafka.protocol.metadata import MetadataRequest

from worker.settings import KafkaSettings
from worker.transport.interface import Record, TopicInfo, TransportConfigurationError, TransportUnavailable
from worker.transport.sparing import Sparing

T = TypeVar("T")

# Its debug lines hold passwords, and record keys and values; its info lines are one for every request of the start.
logging.getLogger("kafka").setLevel(logging.WARNING)
logging.getLogger("kafka").addHandler(logging.NullHandler())  # a command that set up no logging prints none of it


_TALKATIVE = "cluster", "consumer.fetcher", "coordinator", "net.connection", "net.manager", "net.transport"
for _name in (*_TALKATIVE, "producer.sender"):
    logging.getLogger(f"kafka.{_name}").addFilter(Sparing())

TOPIC_SETTINGS = {  # name: what Kafka assumes, for where this user may not read a topic's settings
    "max.message.bytes": "1048588",
    "cleanup.policy": "delete",
    "min.insync.replicas": "1",
    "retention.ms": "604800000",
}

REFUSALS = (
    errors.SaslAuthenticationFailedError,
    errors.UnsupportedSaslMechanismError,
    errors.IllegalSaslStateError,
    errors.AuthorizationError,
    errors.KafkaConfigurationError,
    errors.UnsupportedVersionError,
)


def client_config(kafka: KafkaSettings) -> dict[str, Any]:
    """Settings that consumer, producer and admin client share. TransportConfigurationError names a bad file."""
    config: dict[str, Any] = {
        "bootstrap_servers": [server.strip() for server in kafka.bootstrap_servers.split(",")],
        "client_id": "review-worker",
        "reconnect_backoff_max_ms": 1000,
        "metadata_max_age_ms": 30_000,
        "request_timeout_ms": 15_000,
        "security_protocol": kafka.security_protocol,
    }
    if kafka.security_protocol.startswith("SASL"):
        config["sasl_mechanism"] = kafka.sasl_mechanism
        config["sasl_plain_username"] = kafka.sasl_username
        config["sasl_plain_password"] = kafka.sasl_password.get_secret_value() if kafka.sasl_password else None
    if kafka.security_protocol.endswith("SSL"):
        config["ssl_context"] = _ssl_context(kafka)
    return config


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    """Made here and not by kafka-python, which reports a missing file as a broker that does not answer."""
    password = kafka.ssl_key_password.get_secret_value() if kafka.ssl_key_password else None
    names = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
    for name in names:
        path = getattr(kafka, name)
        if path is not None and not path.is_file():
            raise TransportConfigurationError(f"kafka.{name} {path}: no such file")
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
        if kafka.ssl_certfile:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile, password)
    except (ssl.SSLError, OSError) as error:
        files = ", ".join(f"kafka.{name} {getattr(kafka, name)}" for name in names if getattr(kafka, name))
        raise TransportConfigurationError(f"cannot use {files}: {error}") from None
    return context


class _LastProblem(logging.Filter):
    """Keeps why the client's last attempt to connect failed: its own error says only that the time was up."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg.startswith("Bootstrap connection") and isinstance(record.args, tuple):
            self.error = next((cause for cause in record.args if isinstance(cause, BaseException)), self.error)
        return False


@contextmanager
def reaching(kafka: KafkaSettings, timeout: float) -> Iterator[None]:
    """Turns what goes wrong while a client of kafka-python is made into one clear line, and silences its log."""
    log, manager, problem = logging.getLogger("kafka"), logging.getLogger("kafka.net.manager"), _LastProblem()
    log.setLevel(logging.CRITICAL)
    manager.setLevel(logging.WARNING)
    manager.filters.insert(0, problem)
    try:
        yield
    except REFUSALS as error:
        raise TransportConfigurationError(f"Kafka at {kafka.bootstrap_servers} refuses this client: {error}") from None
    except (errors.KafkaError, OSError) as error:
        why = str(problem.error or "")
        if "socket disconnected" in why:  # kafka-python overlooks what a broker says before it hangs up
            what = "kafka.security_protocol" + (", sasl_*" if kafka.security_protocol.startswith("SASL") else "")
            why = f"it hangs up on this client, check {what}"
        elif not isinstance(problem.error, REFUSALS) and "CERTIFICATE" not in why:
            why = f": {why}" if why else ""
            raise TransportUnavailable(
                f"no Kafka broker answered at {kafka.bootstrap_servers} within {timeout:g} s{why}"
            ) from error
        raise TransportConfigurationError(f"cannot talk to Kafka at {kafka.bootstrap_servers}: {why}") from error
    finally:
        manager.removeFilter(problem)
        manager.setLevel(logging.NOTSET)
        log.setLevel(logging.WARNING)


def never_create_topics(client: Any) -> None:
    """Asking for a topic must not create it, on any broker: kafka-python 3.0.12 takes the setting and forgets it."""
    client._manager.cluster.config["allow_auto_create_topics"] = False


def result(future: KafkaFuture, timeout: float) -> Any:
    """The value of a future of kafka-python, from another thread than its own; TimeoutError after `timeout` s."""
    bridge: Future[Any] = Future()
    future.add_callback(bridge.set_result)
    future.add_errback(bridge.set_exception)
    return bridge.result(max(0.0, timeout))


def forget_coordinators(admin: KafkaAdminClient) -> None:
    """So that it asks for them anew: it keeps what it once found for good, also after another node has become it."""
    admin._manager.cluster._coordinators.clear()


def retrying(call: Callable[[], T], timeout: float) -> T:
    """Repeats `call` while it fails for a reason that passes, for up to `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return call()
        except (errors.RetriableError, TimeoutError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def to_record(record: Any) -> Record:
    return Record(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple(record.headers),
    )


def describe_topic(manager: Any, name: str, timeout: float) -> TopicInfo | None:
    """The topic's settings; None where it does not exist. KafkaError or TimeoutError when no broker answers."""
    deadline = time.monotonic() + timeout

    def ask(request: Any) -> Any:
        return result(manager.call_soon(manager.send, request), deadline - time.monotonic())

    def metadata() -> Any:
        topics = [MetadataRequest.MetadataRequestTopic(name=name)]
        topic = ask(MetadataRequest(topics=topics, allow_auto_topic_creation=False)).topics[0]
        if topic.error_code and topic.error_code != errors.UnknownTopicOrPartitionError.errno:
            raise errors.for_code(topic.error_code)(name)
        return topic

    topic = retrying(metadata, timeout)
    if topic.error_code:
        return None
    resource = (2, name, list(TOPIC_SETTINGS))  # 2: a topic
    described = retrying(lambda: ask(DescribeConfigsRequest(resources=[resource])), timeout).results[0]
    settings = {**TOPIC_SETTINGS, **{entry.name: entry.value for entry in described.configs}}
    return TopicInfo(
        partitions=len(topic.partitions),
        max_message_bytes=int(settings["max.message.bytes"]),
        cleanup_policy=settings["cleanup.policy"],
        min_insync_replicas=int(settings["min.insync.replicas"]),
        replication_factor=min(len(partition.replica_nodes) for partition in topic.partitions),
        retention_ms=int(settings["retention.ms"]),
    )
