"""The local Kafka as people, demo and tests rely on it: it starts, keeps what it took, and leaves nothing behind."""

import contextlib
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer

from worker.tools import kafka_jars
from worker.tools.kafka_jars import LocalKafkaError
from worker.tools.local_kafka import LocalKafka
from worker.tools.local_kafka_process import Port

COMMAND = [sys.executable, "-m", "worker.tools.local_kafka"]


def produce(servers: str, topic: str, value: bytes) -> None:
    producer = KafkaProducer(bootstrap_servers=servers, acks="all", bootstrap_timeout_ms=10_000)
    try:
        producer.send(topic, value).get(timeout=20)
    finally:
        producer.close(timeout=5)


def consume(servers: str, topic: str) -> bytes:
    """The topic's first record, read by a group so that the coordinator takes part."""
    consumer = KafkaConsumer(
        topic, bootstrap_servers=servers, group_id=str(uuid.uuid4()), auto_offset_reset="earliest",
        bootstrap_timeout_ms=10_000, consumer_timeout_ms=10_000,
    )  # fmt: skip
    try:
        return next(consumer).value
    finally:
        consumer.close(timeout_ms=5000)


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def descendants(pid: int) -> list[int]:
    table = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = [tuple(map(int, line.split())) for line in table.splitlines()]
    return [child for child, parent in parents if parent == pid]


def test_the_brokers_of_this_run_take_and_give_a_record(bootstrap, topics):
    topic = topics("hello", partitions=2, config={"retention.ms": "60000"})
    produce(bootstrap, topic, b"hello")
    assert consume(bootstrap, topic) == b"hello"


def test_a_record_survives_kill_minus_nine_and_a_new_start_from_the_same_directory(
    tmp_path, local_kafka_factory, topics
):
    quick = {"broker.session.timeout.ms": "1000", "broker.heartbeat.interval.ms": "300"}
    kafka = local_kafka_factory(tmp_path, properties=quick)
    servers = kafka.bootstrap_servers
    topic = topics("kept", bootstrap=servers)
    produce(servers, topic, b"kept")
    kafka.kill()
    assert not kafka.pids
    kafka.start_node()
    assert kafka.bootstrap_servers == servers
    assert consume(servers, topic) == b"kept"
    kafka.stop()
    with LocalKafka(tmp_path) as again:  # on another port
        assert consume(again.bootstrap_servers, topic) == b"kept"


def test_a_second_start_needs_no_network(monkeypatch, local_kafka_factory):
    local_kafka_factory().stop()  # the cache is full from here on
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in [module for module in sys.modules if module.split(".")[0] == "jgo"] + ["jgo"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(kafka_jars, "_checked", set())
    started = time.monotonic()
    kafka = local_kafka_factory()
    assert kafka.pids
    assert time.monotonic() - started < 30


def test_a_paused_broker_comes_back(local_kafka_factory, topics):
    kafka = local_kafka_factory()
    topic = topics("paused", bootstrap=kafka.bootstrap_servers)
    kafka.pause()
    try:
        with pytest.raises(Exception, match=r"(?i)timeout|timed out"):
            KafkaProducer(bootstrap_servers=kafka.bootstrap_servers, bootstrap_timeout_ms=300)
    finally:
        kafka.resume()
    produce(kafka.bootstrap_servers, topic, b"back")
    assert consume(kafka.bootstrap_servers, topic) == b"back"


def test_three_nodes_go_on_without_one(local_kafka_factory, topics):
    kafka = local_kafka_factory(nodes=3)
    topic = topics("three", partitions=3, config={"min.insync.replicas": "2"}, bootstrap=kafka.bootstrap_servers)
    kafka.kill(0)
    assert len(kafka.pids) == 2
    produce(kafka.bootstrap_servers, topic, b"still here")
    assert consume(kafka.bootstrap_servers, topic) == b"still here"


def test_a_broker_that_cannot_start_says_why_and_where_to_read_more(tmp_path, local_kafka_factory):
    with pytest.raises(LocalKafkaError, match=r"heartbeat") as refused:
        local_kafka_factory(tmp_path, properties={"broker.heartbeat.interval.ms": "soon"})
    log = re.search(r"the end of (\S+server.log)", str(refused.value))
    assert log and "ConfigException" in Path(log[1]).read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 0), (signal.SIGKILL, -9)])
def test_the_command_leaves_no_process_behind(tmp_path, number, code):
    command = [*COMMAND, "--port", "0", "--data-dir", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        address = process.stdout.readline()  # ends when the command does: pytest's timeout is the deadline
        assert re.fullmatch(r"Apache Kafka \S+ at 127\.0\.0\.1:\d+\n", address)
        children = descendants(process.pid)
        assert children and all(alive(child) for child in children)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == code
        assert "Traceback" not in errors
        deadline = time.monotonic() + 10
        while any(alive(child) for child in children):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_a_taken_port_is_one_clear_line_and_exit_code_2():
    port = Port()
    try:
        ended = subprocess.run([*COMMAND, "--port", str(port.number)], capture_output=True, text=True, timeout=30)
    finally:
        port.release()
    assert ended.returncode == 2
    assert ended.stderr == f"review-worker kafka: port {port.number} is taken; choose another, or 0 for a free one\n"
