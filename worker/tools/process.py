"""`review-worker run` as a process of its own, with its log, its port and its exit code: for demo, bench and tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any

from worker.tools.watchdog import Watchdog

COMMAND = str(Path(sys.executable).with_name("review-worker"))


class WorkerEnded(Exception):
    """The worker did not do what was asked of its process; the message holds its log."""


class WorkerProcess:
    """A running worker; settings are given by their dotted names. Killed when the `with` ends, if it still runs.

    `command` is an executable to run in `review-worker`'s stead.
    """

    def __init__(
        self, checkpoint: Path | str, log: Path, settings: dict[str, Any], command: str = COMMAND, **environment: str
    ) -> None:
        flags = [f"--{name}={value}" for name, value in {"http.port": 0, **settings}.items()]
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [command, "run", "--checkpoint", str(checkpoint), *flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is for whoever started it, who then stops it
                env={**os.environ, **environment},
            )
        self._watchdog = Watchdog(self._process.pid)

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()
        self._watchdog.release()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the worker's own HTTP; (0, "") while it does not listen, or ends as it answers."""
        found = re.search(r"listening on (http://\S+)", self.log)
        if not found:
            return 0, ""
        try:
            with urllib.request.urlopen(found[1] + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except (OSError, HTTPException):
            return 0, ""

    def metric(self, series: str) -> float:
        """Sum of the series whose names begin so."""
        _, body = self.get("/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in body.splitlines() if line.startswith(series))

    def wait_ready(self, deadline: float = 60.0) -> None:
        """Returns once it is warm and in its group; WorkerEnded, with its log, where it ends or takes longer."""
        end = time.monotonic() + deadline
        while self.get("/readyz")[0] != 200:
            if self._process.poll() is not None:
                raise WorkerEnded(f"the worker ended with exit code {self._process.returncode}:\n{self.log}")
            if time.monotonic() > end:
                raise WorkerEnded(f"the worker was not ready within {deadline:g} s:\n{self.log}")
            time.sleep(0.05)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self, deadline: float = 40.0) -> int:
        """Its exit code; WorkerEnded where it does not end."""
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise WorkerEnded(f"the worker was still running after {deadline:g} s:\n{self.log}") from None
