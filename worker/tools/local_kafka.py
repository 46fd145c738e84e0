"""Apache Kafka itself on this machine with nothing installed beforehand: one node or three, in KRaft mode.

For people (`review-worker kafka`), the demo and the tests, which also kill, pause and restart nodes. Knows nothing of
reviews or of the worker. `python -m worker.tools.local_kafka lock` writes the lock of the jars anew.
"""

import os
import shutil
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import IO, Annotated, Self

import typer

from worker.tools import kafka_jars
from worker.tools.kafka_jars import KAFKA_VERSION, LocalKafkaError, LocalKafkaSetupError, Progress
from worker.tools.kafka_properties import HOST, node_properties, render_properties
from worker.tools.local_kafka_process import BrokerProcess, Port, hold
from worker.transport.interface import TransportUnavailable

JVM_OPTIONS = [
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xlog:disable",
    "-Xlog:all=error:stderr",
    "--sun-misc-unsafe-memory-access=allow",  # Kafka's own doing, not worth four lines of warning at each start
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]


class LocalKafka:
    """A cluster of one node or three; as a context manager it is started and, at the end, stopped.

    Nodes are counted from 0. Every wait has a deadline; past it, or when a broker dies, LocalKafkaError. Brokers never
    outlive this process. With `data_dir` the records stay for the next start; without, they go with the cluster.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        *,
        port: int = 0,
        nodes: int = 1,
        properties: Mapping[str, str] | None = None,
        jvm_options: Sequence[str] | None = None,
        on_progress: Progress = lambda message: None,
        start_timeout: float = 60.0,
        stop_timeout: float = 10.0,
    ) -> None:
        """`port`: of the first node, the next ones follow; 0 = free ones. `properties` override broker settings.

        `jvm_options` take the place of the start-up cache, which is otherwise made on first use. Timeouts in seconds.
        """
        if nodes not in (1, 3):
            raise LocalKafkaSetupError(f"a local Kafka has 1 node or 3, not {nodes}")
        self.nodes, self._port, self._extra = nodes, port, dict(properties or {})
        self._data_dir, self._jvm_options, self._progress = data_dir, jvm_options, on_progress
        self._start_timeout, self._stop_timeout = start_timeout, stop_timeout
        self._ports: list[tuple[Port, Port]] = []  # client and controller, a pair a node
        self._processes: list[BrokerProcess] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def bootstrap_servers(self) -> str:
        return ",".join(self._addresses(range(self.nodes)))

    @property
    def pids(self) -> list[int]:
        """Process ids of the nodes that run."""
        return [process.pid for process in self._processes if process.pid is not None]

    @property
    def logs(self) -> list[Path]:
        return [process.log for process in self._processes]

    def start(self) -> None:
        """Returns when clients can work. When it raises, no process is left, and the log that it names stays."""
        folder = (self._data_dir or Path(tempfile.mkdtemp(prefix="local-kafka-"))).absolute()
        owned = self._own(folder)
        self._processes, self._ports = [], []
        end = (self._processes, self._ports, owned)
        self._finish = weakref.finalize(self, _finish, *end, None if self._data_dir else folder)
        try:
            for node in range(self.nodes):
                self._ports.append((Port(self._port + node if self._port else 0), Port()))
            lock = kafka_jars.Lock.read()
            command = self._command(lock)
            self._progress(f"Starting Apache Kafka {KAFKA_VERSION}")
            for node in range(self.nodes):
                self._processes.append(BrokerProcess(command, self._prepare_node(folder, node, lock)))
            for process in self._processes:
                process.start()
            self._wait_until_ready(range(self.nodes))
        except BaseException as error:
            if isinstance(error, LocalKafkaError) and self._processes:
                self._finish.detach()
                _finish(*end, None)
            self._finish()
            raise

    def stop(self) -> None:
        """A clean stop: 0.4 s; up to `stop_timeout` for three nodes, the last of which miss their quorum."""
        if not self._processes:
            return
        if not self._data_dir and self.nodes > 1:
            self._finish()  # nothing to keep, nothing to wait for
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + self._stop_timeout
        for process in self._processes:
            process.wait(max(0.0, deadline - time.monotonic()))
        self._finish()

    def kill(self, node: int = 0) -> None:
        """SIGKILL, as if the machine lost its power; the port stays ours."""
        self._processes[node].kill()

    def stop_node(self, node: int = 0) -> None:
        self._processes[node].terminate()
        self._processes[node].wait(self._stop_timeout)

    def start_node(self, node: int = 0) -> None:
        """After `stop_node` or `kill`; after a kill it takes 5 s, until the dead broker's session has expired."""
        self._processes[node].start()
        self._wait_until_ready([node])

    def restart(self, node: int = 0) -> None:
        self.stop_node(node)
        self.start_node(node)

    def pause(self, node: int = 0) -> None:
        """SIGSTOP: connections stay open and nothing answers, until `resume`."""
        self._processes[node].signal(signal.SIGSTOP)

    def resume(self, node: int = 0) -> None:
        self._processes[node].signal(signal.SIGCONT)

    def check(self) -> None:
        """Raises LocalKafkaError with the end of its log when a node has ended by itself."""
        for process in self._processes:
            process.check()

    def _addresses(self, nodes: Sequence[int]) -> list[str]:
        return [f"{HOST}:{self._ports[node][0].number}" for node in nodes]

    def _wait_until_ready(self, nodes: Sequence[int]) -> None:
        from worker.transport.ready import wait_until_ready

        try:
            wait_until_ready(self._addresses(nodes), self._start_timeout, self.check)
        except TransportUnavailable as error:
            raise LocalKafkaError(str(error)) from error

    def _command(self, lock: kafka_jars.Lock) -> list[str]:
        cache, java = kafka_jars.cache_dir(), kafka_jars.java()
        jars = kafka_jars.class_path(cache, lock, self._progress)
        options = self._jvm_options
        if options is None:
            options = [f"-XX:AOTCache={_start_cache(cache, lock, self._progress)}"]
        settings = [*JVM_OPTIONS, *options, "-cp", os.pathsep.join(map(str, jars))]
        return [str(java), *settings, "kafka.Kafka", "server.properties"]

    def _own(self, folder: Path) -> IO[bytes]:
        """The folder's lock file, held: two clusters on the same records would destroy them."""
        found = len(list(folder.glob("node-*")))
        if found not in (0, self.nodes):
            raise LocalKafkaSetupError(f"{folder} holds a cluster of {found} node(s), not of {self.nodes}")
        owned = hold(folder / "lock")
        if owned is None:
            raise LocalKafkaSetupError(f"{folder} is in use by another local Kafka")
        return owned

    def _prepare_node(self, folder: Path, node: int, lock: kafka_jars.Lock) -> Path:
        """The node's folder, with its properties and, the first time, what Kafka's format command would leave."""
        home = folder / f"node-{node + 1}"
        data = home / "data"
        data.mkdir(parents=True, exist_ok=True)
        ports = [(client.number, controller.number) for client, controller in self._ports]
        (home / "server.properties").write_text(render_properties(node_properties(node, ports, self._extra)))
        if not (data / "meta.properties").exists():
            (data / "bootstrap.checkpoint").write_bytes(lock.bootstrap_checkpoint)
            meta = {"version": "1", "cluster.id": kafka_jars.CLUSTER_ID, "node.id": str(node + 1)}
            (data / "meta.properties").write_text(render_properties(meta))
        return home


def _finish(
    processes: list[BrokerProcess], ports: list[tuple[Port, Port]], owned: IO[bytes], folder: Path | None
) -> None:
    """Kills what still runs, gives back what was held, removes the folder; at the latest when the interpreter ends."""
    for process in processes:
        process.kill()
    for pair in ports:
        for port in pair:
            port.release()
    owned.close()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _start_cache(cache: Path, lock: kafka_jars.Lock, progress: Progress) -> Path:
    """Java's ahead-of-time cache, for a third of the start time: made once, by a broker that writes it as it ends."""
    path = kafka_jars.start_cache_path(cache, lock)
    if not path.exists():
        with kafka_jars.exclusive(cache):
            if not path.exists():
                progress("Preparing a start-up cache for Kafka, once")
                new = path.with_suffix(".new")
                with LocalKafka(jvm_options=[f"-XX:AOTCacheOutput={new}"], stop_timeout=120):
                    pass
                new.touch()  # where this Java cannot make one: an empty cache is ignored
                os.replace(new, path)
    return path


def kafka_command(
    data_dir: Annotated[
        Path | None, typer.Option(help="Keep records here for the next start. Default: a temporary directory.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65533, help="Of the first node; 0 picks free ones.")] = 9092,
    nodes: Annotated[int, typer.Option(help="1, or 3 to see replication and failover.")] = 1,
) -> None:
    """Run Apache Kafka on this machine until Ctrl-C; needs neither Docker nor an installed Java.

    Example: review-worker kafka --data-dir ./kafka-data --port 9092
    """
    from rich.console import Console

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    console = Console(stderr=True, highlight=False)
    try:
        with ExitStack() as stack:
            with console.status("Checking Apache Kafka's files") as status:
                kafka = LocalKafka(data_dir, port=port, nodes=nodes, on_progress=status.update)
                stack.enter_context(kafka)
            servers = kafka.bootstrap_servers
            print(f"Apache Kafka {KAFKA_VERSION} at {servers}", flush=True)
            console.print(f"Records: {data_dir or 'gone when it stops'}. Log: {kafka.logs[0]}", soft_wrap=True)
            console.print(
                f"Next: WORKER_KAFKA__BOOTSTRAP_SERVERS={servers} review-worker topics create", soft_wrap=True
            )
            console.print("Ctrl-C stops it.")
            while True:
                kafka.check()
                time.sleep(0.5)
    except (LocalKafkaError, OSError) as error:  # the latter: a directory or port that we may not use
        print(f"review-worker kafka: {error}", file=sys.stderr)
        raise typer.Exit(getattr(error, "exit_code", 2)) from None
    except KeyboardInterrupt:
        pass  # asked to stop, and stopped


def _interrupt(number: int, frame: FrameType | None) -> None:
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # let the clean stop finish
    raise KeyboardInterrupt


if __name__ == "__main__":
    if sys.argv[1:] == ["lock"]:
        kafka_jars.refresh_lock()
    else:
        typer.run(kafka_command)
