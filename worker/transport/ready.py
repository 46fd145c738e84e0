"""Waits until a Kafka cluster can really be worked with. Knows nothing about how it was started. Over kafka-python."""

import socket
import time
from collections.abc import Callable, Sequence

from kafka import KafkaAdminClient
from kafka.errors import KafkaError, TransactionalIdNotFoundError

from worker.transport.interface import TransportUnavailable
from worker.transport.kafka_python_client import forget_coordinators


def wait_until_ready(servers: Sequence[str], timeout: float, check: Callable[[], None] = lambda: None) -> None:
    """Returns when every server answers and both coordinators work, which also means that topics can be created.

    `check` is called between attempts and raises when waiting has become pointless; TransportUnavailable after
    `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    for server in servers:  # a node listens once it is registered, so this is most of the wait
        while not _accepts(server):
            _pause(check, deadline, f"no answer from {server} after {timeout:.0f} s")
    probe = "review-worker-probe"
    try:
        settings = {
            "bootstrap_timeout_ms": int(timeout * 1000),
            "request_timeout_ms": 5000,
            "reconnect_backoff_max_ms": 500,
        }
        with KafkaAdminClient(bootstrap_servers=list(servers), **settings) as admin:
            while True:
                try:
                    nodes = len(admin.describe_cluster()["brokers"])
                    problem = f"{nodes} of {len(servers)} nodes registered"
                    if nodes >= len(servers):
                        admin.list_group_offsets(probe)
                        admin.describe_transactions([probe])
                except TransactionalIdNotFoundError:
                    return  # asked and answered
                except KafkaError as error:
                    problem = str(error)
                    forget_coordinators(admin)  # another node becomes it while the nodes start
                _pause(check, deadline, f"Kafka at {','.join(servers)} is not ready after {timeout:.0f} s: {problem}")
    except KafkaError as error:  # not even the first metadata came
        check()
        raise TransportUnavailable(f"Kafka at {','.join(servers)} does not answer: {error}") from error


def _accepts(server: str) -> bool:
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True


def _pause(check: Callable[[], None], deadline: float, message: str) -> None:
    check()
    if time.monotonic() > deadline:
        raise TransportUnavailable(message)
    time.sleep(0.02)
