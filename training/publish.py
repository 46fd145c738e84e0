"""Publishing versions to a store and moving aliases between them. Knows nothing of models or data.

A version appears all at once and never changes. On a disk it is renamed into place. An object store cannot rename:
there a number is reserved by an exclusive create, atomic where the filesystem has one (s3, gs), and the manifest comes
last.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec

from schemas import store as layout
from schemas.manifest import Alias, CheckpointManifest
from training.errors import InputError

RESERVED = ".reserved"
_NAME = re.compile(r"^\w[\w.-]*$")


def prepare(store: str, name: str, alias: str | None = None) -> None:
    """Makes sure a version can be written and promoted, before hours go into one. InputError where it cannot."""
    if alias:
        _check_alias(alias)
    if not _NAME.match(name):
        raise InputError(f"--name {name}: letters, digits, dots, dashes and underscores only")
    filesystem, path = _open(store, name)
    probe = f"{path}/.writable-{uuid.uuid4().hex}"
    try:
        if _is_local(filesystem):  # on an object store this would make a misspelt bucket
            filesystem.makedirs(path, exist_ok=True)
        filesystem.pipe_file(probe, b"")
        filesystem.rm_file(probe)
    except Exception as error:  # each filesystem raises what its client library does
        raise InputError(f"--store {store}: cannot write there: {_line(error)}") from None


def require_store(store: str) -> None:
    """InputError where nothing is there."""
    filesystem, path = _open(store)
    try:
        found = filesystem.exists(path)
    except Exception as error:  # each filesystem raises what its client library does
        raise InputError(f"--store {store}: {_line(error)}") from None
    if not found:
        raise InputError(f"--store {store}: does not exist")


def versions(store: str, name: str) -> list[str]:
    """Published versions, oldest first."""
    filesystem, path = _open(store, name)
    return [
        version for version in _numbered(filesystem, path) if filesystem.exists(f"{path}/{version}/{layout.MANIFEST}")
    ]


def names(store: str) -> list[str]:
    """Models of a store."""
    filesystem, path = _open(store)
    found = [entry.rstrip("/").rpartition("/")[2] for entry in _entries(filesystem, path)]
    return sorted(name for name in found if _NAME.match(name) and versions(store, name))


def publish(staged: Path, store: str, manifest: CheckpointManifest) -> CheckpointManifest:
    """Makes the files in `staged` the next version of `manifest.name`; returns its manifest, now whole."""
    files = {path.relative_to(staged).as_posix(): path for path in sorted(staged.rglob("*")) if path.is_file()}
    if unknown := [file for file in files if not layout.ALLOWED_FILE.match(file)]:
        raise InputError(f"{unknown[0]} is not a kind of file that a checkpoint may hold")
    manifest = manifest.model_copy(update={"files": {file: layout.digest(path) for file, path in files.items()}})
    filesystem, path = _open(store, manifest.name)
    put = _rename_into_place if _is_local(filesystem) else _upload
    while True:
        taken = [int(version[1:]) for version in _numbered(filesystem, path)]
        manifest = manifest.model_copy(update={"version": f"v{max(taken, default=0) + 1:04d}"})
        (staged / layout.MANIFEST).write_text(manifest.model_dump_json(indent=2))
        try:
            put(filesystem, staged, [*files, layout.MANIFEST], f"{path}/{manifest.version}")
            return manifest
        except FileExistsError:  # another run published this number meanwhile: take the next
            continue


def promote(store: str, name: str, version: str, alias: str) -> Alias:
    """Points an alias at a version, remembering where it pointed before."""
    _check_alias(alias)
    layout.read_manifest(f"{store}/{name}/{version}")
    aliases = layout.read_aliases(store, name)
    current = aliases.get(alias)
    if current and current.version == version:
        return current
    aliases[alias] = Alias(version=version, previous=current.version if current else None, changed_at=datetime.now(UTC))
    _write_aliases(store, name, aliases)
    return aliases[alias]


def rollback(store: str, name: str, alias: str) -> Alias:
    """Points an alias back at the version before; a second rollback undoes the first."""
    current = layout.read_aliases(store, name).get(alias)
    if current is None:
        raise InputError(f"{store}/{name}: no alias {alias!r}")
    if current.previous is None:
        raise InputError(f"{store}/{name}: alias {alias!r} has never pointed anywhere but at {current.version}")
    return promote(store, name, current.previous, alias)


def _check_alias(alias: str) -> None:
    if not _NAME.match(alias) or layout.VERSION_PATTERN.match(alias):
        raise InputError(f"alias {alias}: expected a word such as production, not a version")


def _rename_into_place(_: Any, staged: Path, files: list[str], target: str) -> None:
    partial = Path(target).with_name(f".publishing-{uuid.uuid4().hex}")
    try:
        for file in files:
            (partial / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(staged / file, partial / file)
        try:
            os.rename(partial, target)
        except OSError as error:
            if Path(target).exists():
                raise FileExistsError(target) from error
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _upload(filesystem: Any, staged: Path, files: list[str], target: str) -> None:
    parent, _, version = target.rpartition("/")
    filesystem.pipe_file(f"{parent}/{RESERVED}/{version}", b"", mode="create")
    for file in files:  # the manifest is the last of them
        filesystem.put_file(str(staged / file), f"{target}/{file}")


def _write_aliases(store: str, name: str, aliases: dict[str, Alias]) -> None:
    content = json.dumps({alias: entry.model_dump(mode="json") for alias, entry in sorted(aliases.items())}, indent=2)
    filesystem, path = _open(store, name)
    if not _is_local(filesystem):
        filesystem.pipe_file(f"{path}/{layout.ALIASES}", content.encode())
        return
    partial = Path(path) / f".aliases-{uuid.uuid4().hex}"
    partial.write_text(content)
    os.replace(partial, Path(path) / layout.ALIASES)


def _numbered(filesystem: Any, path: str) -> list[str]:
    """Version numbers in use, published, reserved or abandoned."""
    entries = _entries(filesystem, path) + _entries(filesystem, f"{path}/{RESERVED}")
    found = {entry.rstrip("/").rpartition("/")[2] for entry in entries}
    return sorted(filter(layout.VERSION_PATTERN.match, found), key=lambda version: int(version[1:]))


def _entries(filesystem: Any, path: str) -> list[str]:
    filesystem.invalidate_cache(path)
    try:
        return list(filesystem.ls(path, detail=False))
    except FileNotFoundError:
        return []


def _open(store: str, name: str = "") -> tuple[Any, str]:
    try:
        filesystem, path = fsspec.core.url_to_fs(f"{store}/{name}" if name else store)
    except (ImportError, ValueError) as error:
        raise InputError(f"--store {store}: {_line(error)}") from None
    return filesystem, path.rstrip("/")


def _is_local(filesystem: Any) -> bool:
    return "file" in filesystem.protocol


def _line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
