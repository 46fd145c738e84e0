"""What a container may use is read from its cgroup; cores are shared among engines."""

import os
from pathlib import Path

from worker.engine.processor import SMALL_BATCH, Cores, cores, memory_left

MIB = 2**20


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def proc(directory: Path, group: str = "/") -> Path:
    write(directory / "meminfo", f"MemTotal: 99 kB\nMemAvailable:    {800 * 1024} kB\n")
    write(directory / "self" / "cgroup", f"0::{group}\n")
    return directory


def test_quota_of_version_2_anywhere_up_the_tree(tmp_path: Path) -> None:
    cgroup, own = tmp_path / "cgroup", proc(tmp_path / "proc", "/pod/worker")
    assert cores(cgroup, own) == len(os.sched_getaffinity(0)), "no limit anywhere"
    write(cgroup / "pod" / "worker" / "cpu.max", "max 100000\n")
    assert cores(cgroup, own) == len(os.sched_getaffinity(0))
    write(cgroup / "pod" / "cpu.max", "50000 100000\n")
    assert cores(cgroup, own) == 1
    write(cgroup / "pod" / "cpu.max", "100000000 100000\n")
    assert cores(cgroup, own) == len(os.sched_getaffinity(0)), "a quota larger than the affinity gives no more"


def test_quota_of_version_1(tmp_path: Path) -> None:
    write(tmp_path / "cgroup" / "cpu" / "cpu.cfs_quota_us", "100000\n")
    write(tmp_path / "cgroup" / "cpu" / "cpu.cfs_period_us", "100000\n")
    assert cores(tmp_path / "cgroup", proc(tmp_path / "proc")) == 1


def test_memory_is_the_least_of_machine_and_limits(tmp_path: Path) -> None:
    cgroup, own = tmp_path / "cgroup", proc(tmp_path / "proc", "/pod")
    assert memory_left(cgroup, own) == 800 * MIB
    write(cgroup / "pod" / "memory.max", "max\n")
    assert memory_left(cgroup, own) == 800 * MIB
    write(cgroup / "memory.max", f"{300 * MIB}\n")
    write(cgroup / "memory.current", f"{120 * MIB}\n")
    write(cgroup / "memory.stat", f"anon {100 * MIB}\ninactive_file {20 * MIB}\n")
    assert memory_left(cgroup, own) == 200 * MIB, "other processes' use counts, cached files do not"
    write(cgroup / "memory.max", f"{50 * MIB}\n")
    assert memory_left(cgroup, own) == 0


def test_memory_of_version_1(tmp_path: Path) -> None:
    cgroup, own = tmp_path / "cgroup", proc(tmp_path / "proc")
    write(cgroup / "memory" / "memory.limit_in_bytes", f"{300 * MIB}\n")
    write(cgroup / "memory" / "memory.usage_in_bytes", f"{120 * MIB}\n")
    write(cgroup / "memory" / "memory.stat", f"inactive_file 0\ntotal_inactive_file {20 * MIB}\n")
    assert memory_left(cgroup, own) == 200 * MIB


def test_only_a_small_batch_that_runs_alone_gets_all_cores() -> None:
    shared = Cores(total=8, engines=8)
    with shared.share(SMALL_BATCH) as alone:
        assert alone == 8
        with shared.share(SMALL_BATCH) as second:
            assert second == 1
    with shared.share(SMALL_BATCH + 1) as large:
        assert large == 1
    assert (shared.sharers(SMALL_BATCH), shared.sharers(SMALL_BATCH + 1)) == (8, 1)
    with Cores(total=8, engines=1).share(10_000) as only:
        assert only == 8
