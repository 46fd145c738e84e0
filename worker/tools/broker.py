"""Which Kafka to use: the one given, a local one, or (tests only) one in Docker; always Apache Kafka itself."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from worker.tools.kafka_jars import KAFKA_VERSION, LocalKafkaError, LocalKafkaSetupError, Progress
from worker.tools.kafka_properties import container_environment, shared_properties
from worker.tools.local_kafka import LocalKafka
from worker.tools.local_kafka_process import Port
from worker.transport.interface import TransportUnavailable

Kind = Literal["given", "local", "testcontainers"]


@dataclass(frozen=True)
class Broker:
    """A Kafka to work with; `local` is set when it is ours to kill and restart."""

    bootstrap_servers: str
    kind: Kind
    local: LocalKafka | None = None


@contextmanager
def choose_broker(
    environ: Mapping[str, str], *, for_tests: bool, on_progress: Progress = lambda message: None
) -> Iterator[Broker]:
    """The broker to use, started if need be and stopped at the end; prints what it chose, and why, to stderr."""
    kind, address, reason = decide(environ, for_tests=for_tests, docker_answers=_docker_answers)
    if kind == "local":
        with LocalKafka(on_progress=on_progress) as kafka:
            yield _announce(Broker(kafka.bootstrap_servers, kind, kafka), reason)
    elif kind == "testcontainers":
        with _container() as address:
            yield _announce(Broker(address, kind), reason)
    else:
        yield _announce(Broker(address, kind), reason)


def decide(environ: Mapping[str, str], *, for_tests: bool, docker_answers: Callable[[], bool]) -> tuple[Kind, str, str]:
    """(kind, address if given, reason). Tests may say TEST_KAFKA; LocalKafkaSetupError when it makes no sense."""
    wish = environ.get("TEST_KAFKA", "") if for_tests else ""
    given = environ.get("WORKER_KAFKA__BOOTSTRAP_SERVERS", "")
    if wish == "local":
        return "local", "", "TEST_KAFKA=local"
    if wish == "testcontainers":
        return "testcontainers", "", "TEST_KAFKA=testcontainers"
    if wish:
        if not all(server.rpartition(":")[2].isdigit() for server in wish.split(",")):
            raise LocalKafkaSetupError(f"TEST_KAFKA={wish}: expected HOST:PORT, local or testcontainers")
        return "given", wish, "TEST_KAFKA"
    if given:
        return "given", given, "WORKER_KAFKA__BOOTSTRAP_SERVERS"
    if for_tests and docker_answers():
        return "testcontainers", "", "a Docker engine answers"
    return "local", "", "no address given" + (", no Docker engine answers" if for_tests else "")


def _announce(broker: Broker, reason: str) -> Broker:
    what = {
        "given": "Kafka",
        "local": f"local Apache Kafka {KAFKA_VERSION}",
        "testcontainers": "Apache Kafka in Docker",
    }
    print(f"Broker: {what[broker.kind]} at {broker.bootstrap_servers} ({reason})", file=sys.stderr, flush=True)
    return broker


def _docker_answers() -> bool:
    try:
        from testcontainers.core.docker_client import DockerClient

        return bool(DockerClient(timeout=2).client.ping())
    except Exception:  # not installed, no socket, refused, timed out, …: whatever it is, there is no engine to use
        return False


@contextmanager
def _container() -> Iterator[str]:
    """The address of the official image's broker, on a port chosen beforehand: the broker has to advertise it."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.docker_client import DockerClient

    from worker.transport.ready import wait_until_ready

    port = Port()
    host = DockerClient().host()
    properties = {
        **shared_properties(1),
        "node.id": "1",
        "controller.quorum.voters": "1@localhost:9093",
        "listeners": f"PLAINTEXT://:{port.number},CONTROLLER://:9093",
        "advertised.listeners": f"PLAINTEXT://{host}:{port.number}",
    }
    container = DockerContainer(f"apache/kafka:{KAFKA_VERSION}").with_bind_ports(port.number, port.number)
    try:
        with container.with_envs(**container_environment(properties)):
            address = f"{host}:{port.number}"
            try:
                wait_until_ready([address], timeout=120)
            except TransportUnavailable as error:
                output = b"".join(container.get_logs()).decode(errors="replace")
                raise LocalKafkaError(f"{error}; the end of its log:\n{output[-2000:]}") from error
            yield address
    finally:
        port.release()
