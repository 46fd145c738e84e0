"""What this process may use of the machine: cores and memory, and how freed memory is kept. Knows no model."""

from __future__ import annotations

import ctypes
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SMALL_BATCH = 256
CGROUP = Path("/sys/fs/cgroup")
PROC = Path("/proc")

# mallopt's parameters (malloc.h)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4


def cores(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Cores this process may keep busy: its affinity, or the container's quota where that is less."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = math.inf
    for directory in _cgroups(cgroup, proc):
        share, _, period = _read(directory / "cpu.max").partition(" ")
        if share.isdigit() and period.strip().isdigit():
            quota = min(quota, int(share) / int(period))
    v1 = cgroup / "cpu"
    share, period = _read(v1 / "cpu.cfs_quota_us").strip(), _read(v1 / "cpu.cfs_period_us").strip()
    if share.isdigit() and period.isdigit():
        quota = min(quota, int(share) / int(period))
    return max(1, min(affinity, math.ceil(quota)) if quota < math.inf else affinity)


def memory_left(cgroup: Path = CGROUP, proc: Path = PROC) -> int:
    """Bytes this process may still take: what the machine has left, or the container where that is less.

    What a container has cached of files can be taken back, so it does not count as used.
    """
    meminfo = _numbers(proc / "meminfo")
    left = [meminfo["MemAvailable:"] * 1024] if "MemAvailable:" in meminfo else [2**63]
    for directory in _cgroups(cgroup, proc):
        left.append(_left(directory / "memory.max", directory / "memory.current", "inactive_file"))
    v1 = cgroup / "memory"
    left.append(_left(v1 / "memory.limit_in_bytes", v1 / "memory.usage_in_bytes", "total_inactive_file"))
    return max(0, min(left))


def keep_freed_memory() -> bool:
    """Makes glibc's malloc keep what a batch frees for the next one; False where there is no such malloc.

    Without it every large activation is a fresh mapping that the kernel fills with zeros page by page, which costs more
    than some of the arithmetic on it.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    options = ((_MMAP_THRESHOLD, 2**30), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20), (_MMAP_MAX, 0))
    return all(mallopt(option, value) == 1 for option, value in options)


class Cores:
    """Shares the cores among the engines that run one model, each called by a thread of its own.

    One forward on all cores waits at every product for the slowest of them, which on a machine with other work to do
    (tokenizing, Kafka) costs more than it gains; one single-threaded forward a core never waits. Only a small batch
    that runs alone, while the other engines have nothing to do, gets all cores: somebody may be waiting for it.
    """

    def __init__(self, total: int, engines: int) -> None:
        self._total = total
        self._engines = engines
        self._running = 0
        self._lock = threading.Lock()

    def sharers(self, tokens: int) -> int:
        """How many engines share the cores of a batch of so many tokens that runs alone."""
        return self._engines if tokens <= SMALL_BATCH else 1

    @contextmanager
    def share(self, tokens: int) -> Iterator[int]:
        """How many threads a forward over so many tokens may use while it runs."""
        with self._lock:
            self._running += 1
            alone = self._running == 1 and tokens <= SMALL_BATCH
        try:
            yield self._total if alone else max(1, self._total // self._engines)
        finally:
            with self._lock:
                self._running -= 1


def _cgroups(cgroup: Path, proc: Path) -> Iterator[Path]:
    """This process's version 2 groups, from its own up to the root."""
    own = next((line[3:] for line in _read(proc / "self" / "cgroup").splitlines() if line.startswith("0::")), "/")
    path = cgroup / own.strip().lstrip("/")
    yield from (directory for directory in (path, *path.parents) if directory.is_relative_to(cgroup))


def _left(limit: Path, used: Path, cached: str) -> int:
    """Of a control group: its limit, less what is used and cannot be taken back."""
    most, now = _read(limit).strip(), _read(used).strip()
    if not (most.isdigit() and now.isdigit()):
        return 2**63
    return int(most) - max(0, int(now) - _numbers(limit.with_name("memory.stat")).get(cached, 0))


def _numbers(path: Path) -> dict[str, int]:
    """Lines of a name and a number."""
    lines = (line.split() for line in _read(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdigit()}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
