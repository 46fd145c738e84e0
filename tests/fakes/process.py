"""`review-worker` as a user runs it: a process of its own, with its log, its port and its exit code."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

COMMAND = str(Path(sys.executable).with_name("review-worker"))


class WorkerProcess:
    """A running worker; settings are given by their dotted names. Killed when the `with` ends, if it still runs."""

    def __init__(self, checkpoint: Path | str, log: Path, settings: dict[str, Any], **environment: str) -> None:
        flags = [f"--{name}={value}" for name, value in {"http.port": 0, **settings}.items()]
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [COMMAND, "run", "--checkpoint", str(checkpoint), *flags],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
            )

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of the worker's own HTTP; (0, "") while it does not listen."""
        found = re.search(r"listening on (http://\S+)", self.log)
        if not found:
            return 0, ""
        try:
            with urllib.request.urlopen(found[1] + path, timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, series: str) -> float:
        """Sum of the series whose names begin so."""
        _, body = self.get("/metrics")
        return sum(float(line.rsplit(" ", 1)[1]) for line in body.splitlines() if line.startswith(series))

    def wait_ready(self, deadline: float = 60.0) -> None:
        end = time.monotonic() + deadline
        while self.get("/readyz")[0] != 200:
            assert self._process.poll() is None, f"ended with {self._process.returncode}:\n{self.log}"
            assert time.monotonic() < end, f"not ready within {deadline} s:\n{self.log}"
            time.sleep(0.05)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    def wait(self, deadline: float = 40.0) -> int:
        """Its exit code."""
        try:
            return self._process.wait(deadline)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {deadline} s:\n{self.log}") from None
