"""The worker's tools as processes, and topics whose records the test places itself."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from schemas import headers
from tests.fakes.stream import Stream, connection, written
from worker.tools.process import COMMAND
from worker.transport.interface import Record
from worker.transport.writer import TopicWriter

DEADLINE = 60


def flags(stream: Stream) -> list[str]:
    return [f"--{name}={value}" for name, value in stream.items()]


def start(stream: Stream, *command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [COMMAND, *command, *flags(stream)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """What it printed, once it has ended with this exit code."""
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return output, errors


def put(stream: Stream, topic: str, records: Sequence[tuple[int, bytes | None, bytes | None, headers.Headers]]) -> None:
    """Writes (partition, key, value, headers) to any topic."""
    with TopicWriter(connection(stream)) as writer:
        for partition, key, value, own in records:
            writer.send(topic, key, value, own, partition=partition)
        assert writer.flush(30)


def content(stream: Stream, topic: str) -> list[Record]:
    """All that the topic holds, by partition and offset."""
    return sorted(written(stream, topic), key=lambda record: record[1:3])
