"""Layout of the checkpoint store and its verifying reader. Knows nothing of models or of how versions are made.

    STORE/NAME/v0003/manifest.json model.safetensors config.json tokenizer.json ... report/
    STORE/NAME/aliases.json

STORE is any fsspec URI. A reader trusts nothing but files of the allow list whose digests match the manifest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from pydantic import TypeAdapter, ValidationError

from schemas.errors import said
from schemas.manifest import Aliases, CheckpointManifest, FileDigest

MANIFEST = "manifest.json"
ALIASES = "aliases.json"
WEIGHTS = "model.safetensors"
VERSION_PATTERN = re.compile(r"^v\d{4,}$")
ALLOWED_FILE = re.compile(r"^(report/)?[\w.-]+\.(safetensors|json|txt|md|png|svg|model)$")

_ALIASES: TypeAdapter[Aliases] = TypeAdapter(Aliases)


class CheckpointError(Exception):
    """A checkpoint that is missing, damaged, or not what it says: one line, for a person."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified version on this machine's disk."""

    directory: Path
    manifest: CheckpointManifest

    @property
    def ref(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"


def parse_ref(ref: str) -> tuple[str, str, str] | None:
    """(store, name, version or alias) of `STORE/NAME@VERSION_OR_ALIAS`; None where it is a plain directory."""
    location, at, selector = ref.rpartition("@")
    if not at or "/" in selector:
        return None
    store, slash, name = location.rstrip("/").rpartition("/")
    if not slash or not name or not selector:
        raise CheckpointError(f"checkpoint {ref!r}: expected a directory or STORE/NAME@VERSION_OR_ALIAS")
    return store, name, selector


def read_aliases(store: str, name: str) -> Aliases:
    """The aliases of a model; empty where none was ever set."""
    text = _read(f"{store}/{name}/{ALIASES}", missing_ok=True)
    if text is None:
        return {}
    try:
        return _ALIASES.validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"{store}/{name}/{ALIASES}: {_first(error)}") from None


def resolve(ref: str) -> str:
    """Location (directory or URI) of the version that a reference names now."""
    parts = parse_ref(ref)
    if parts is None:
        return ref.rstrip("/")
    store, name, selector = parts
    if VERSION_PATTERN.match(selector):
        return f"{store}/{name}/{selector}"
    aliases = read_aliases(store, name)
    if selector not in aliases:
        known = ", ".join(sorted(aliases)) or "none"
        raise CheckpointError(f"checkpoint {ref!r}: no alias {selector!r} (known: {known})")
    return f"{store}/{name}/{aliases[selector].version}"


def read_manifest(location: str) -> CheckpointManifest:
    """The manifest at a version's location; CheckpointError where there is none or it is not valid."""
    text = _read(f"{location}/{MANIFEST}", missing_ok=True)
    if text is None:
        raise CheckpointError(f"no checkpoint at {location}: {MANIFEST} is missing")
    try:
        manifest = CheckpointManifest.model_validate_json(text)
    except ValidationError as error:
        raise CheckpointError(f"{location}/{MANIFEST}: {_first(error)}") from None
    for file in manifest.files:
        if not ALLOWED_FILE.match(file):
            raise CheckpointError(f"{location}: {file!r} is not a kind of file that a checkpoint may hold")
    if WEIGHTS not in manifest.files:
        raise CheckpointError(f"{location}: no {WEIGHTS} in the manifest; only safetensors weights are read")
    return manifest


def verify(directory: Path, manifest: CheckpointManifest) -> None:
    """Compares every file with its digest; CheckpointError names the first that differs or is too many."""
    for file, expected in manifest.files.items():
        path = directory / file
        if not path.is_file():
            raise CheckpointError(f"{path}: missing")
        if (found := digest(path)) != expected:
            raise CheckpointError(f"{path}: sha256 is {found.sha256[:12]}…, the manifest says {expected.sha256[:12]}…")
    for path in directory.rglob("*"):
        file = path.relative_to(directory).as_posix()
        if path.is_file() and file != MANIFEST and file not in manifest.files:
            raise CheckpointError(f"{path}: not in the manifest")


def fetch(ref: str, cache_dir: Path, progress: Callable[[str], None] = lambda file: None) -> Checkpoint:
    """The verified version that `ref` names, copied below `cache_dir` first where it is not on this disk.

    `progress` is told each file's name before it is copied. The cache may vanish or be damaged at any time: it is
    verified on every call and fetched anew where it does not match.
    """
    location = resolve(ref)
    filesystem, path = _filesystem(location)
    manifest = read_manifest(location)
    if filesystem.protocol == "file" or "file" in filesystem.protocol:
        directory = Path(path)
        verify(directory, manifest)
        return Checkpoint(directory, manifest)
    directory = cache_dir / f"{manifest.name}-{manifest.version}-{manifest.weights_digest[:16]}"
    try:
        verify(directory, manifest)
    except CheckpointError:
        _download(filesystem, path, manifest, directory, progress)
        verify(directory, manifest)
    return Checkpoint(directory, manifest)


def digest(path: Path) -> FileDigest:
    """sha256 and size of a local file; CheckpointError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return FileDigest(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror or error}") from None


def _download(
    filesystem: Any, path: str, manifest: CheckpointManifest, directory: Path, progress: Callable[[str], None]
) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=directory.parent, prefix=directory.name + "."))
    try:
        for file in [*manifest.files, MANIFEST]:
            progress(file)
            target = partial / file
            target.parent.mkdir(exist_ok=True)
            filesystem.get_file(f"{path}/{file}", str(target))
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(partial, directory)
    except Exception as error:  # each filesystem raises what its client library does
        raise CheckpointError(f"{path}: {_line(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _filesystem(location: str) -> tuple[Any, str]:
    try:
        return fsspec.core.url_to_fs(location)  # type: ignore[no-any-return]
    except (ImportError, ValueError) as error:
        raise CheckpointError(f"{location}: {error}") from None


def _read(location: str, *, missing_ok: bool) -> bytes | None:
    filesystem, path = _filesystem(location)
    try:
        content: bytes = filesystem.cat_file(path)
        return content
    except (FileNotFoundError, NotADirectoryError):
        if missing_ok:
            return None
        raise CheckpointError(f"{location}: missing") from None
    except Exception as error:  # each filesystem raises what its client library does
        raise CheckpointError(f"{location}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _first(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, problem["loc"])), said(problem))))
