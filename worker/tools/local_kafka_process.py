"""One broker's operating-system side: its JVM, and a port kept for it.

Knows nothing about Kafka's settings or protocol.
"""

import errno
import fcntl
import os
import random
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from worker.tools.kafka_jars import LocalKafkaError, LocalKafkaSetupError
from worker.tools.kafka_properties import HOST
from worker.tools.watchdog import Watchdog

# Below every system's ephemeral range: there, a client that retries a dead broker's port can be given that very port
# as its own and connect to itself, or another program can take it while the broker restarts.
FREE_PORTS = range(20_000, 32_000)


def hold(path: Path) -> IO[bytes] | None:
    """The file, open and locked against every other process until closed; None when another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("wb")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


class Port:
    """A TCP port of this machine, kept from every other process that asks here until `release` or death."""

    def __init__(self, number: int = 0) -> None:
        """Takes `number`, or any free port for 0. Raises LocalKafkaSetupError when it is taken."""
        folder = Path(tempfile.gettempdir()) / f"review-worker-ports-{os.getuid()}"
        for candidate in [number] if number else random.sample(FREE_PORTS, 200):
            file = hold(folder / str(candidate))
            if file is None:
                continue
            if not _in_use(candidate):
                self.number, self._file = candidate, file
                return
            file.close()
        raise LocalKafkaSetupError(f"port {number} is taken; choose another, or 0 for a free one")

    def release(self) -> None:
        self._file.close()


def _in_use(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: a closing connection is no bar
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise
    return False


class BrokerProcess:
    """A JVM that can be started again, its output appended to `server.log` in the folder it runs in."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.command, self.folder, self.log = command, folder, folder / "server.log"
        self._process: subprocess.Popen[bytes] | None = None  # None again once it has ended by our hand
        self._watchdog: Watchdog | None = None

    @property
    def pid(self) -> int | None:
        """The process id while it runs (paused counts), else None."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self) -> None:
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C in the terminal is ours to answer, not the JVM's.
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._watchdog = Watchdog(self._process.pid)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)  # does nothing once it has ended

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # a paused one could not answer

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait(10)

    def wait(self, timeout: float) -> None:
        """Returns once the JVM has ended, killed if it takes more than `timeout` seconds."""
        if self._process is None:
            return
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._watchdog is not None:
            self._watchdog.release()
            self._watchdog = None

    def check(self) -> None:
        """Raises LocalKafkaError with the end of the log when the JVM has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            end = "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])
            raise LocalKafkaError(f"Kafka ended with code {self._process.returncode}; the end of {self.log}:\n{end}")
