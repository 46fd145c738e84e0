"""The commands that look at a store or move its aliases. They load no model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas import store as layout
from training import publish, show
from training.errors import InputError

Store = Annotated[str, typer.Option(help="Where versions are kept: a directory, s3://…, gs://…")]
Name = Annotated[str, typer.Option(help="Name of the model in the store.")]
Ref = Annotated[str, typer.Argument(help="STORE/NAME@VERSION_OR_ALIAS, or a version's directory.")]
Json = Annotated[bool, typer.Option("--json", help="End standard output with one JSON line.")]


def list_(
    store: Store, name: Annotated[str | None, typer.Option(help="Only this model.")] = None, as_json: Json = False
) -> None:
    """List versions with their quality and aliases.

    Example: review-train list --store store
    """
    publish.require_store(store)
    rows = show.describe_store(store, [name] if name else publish.names(store))
    if as_json:
        print(json.dumps({"versions": rows}))
    else:
        show.print_versions(rows, show.console(stderr=False))


def show_(ref: Ref, as_json: Json = False) -> None:
    """Show what a version is and where it came from.

    Example: review-train show store/reviews@production
    """
    manifest = layout.read_manifest(layout.resolve(ref))
    if as_json:
        print(manifest.model_dump_json())
    else:
        show.print_manifest(manifest, show.console(stderr=False))


def verify(ref: Ref, as_json: Json = False) -> None:
    """Compare every file of a version with its digest; a remote version is downloaded for it.

    Example: review-train verify s3://models/reviews@v0003
    """
    console = show.console()
    with tempfile.TemporaryDirectory(prefix="review-train-") as cache, console.status("verifying") as status:
        checkpoint = layout.fetch(ref, Path(cache), lambda file: status.update(f"fetching {file}"))
    found = {"checkpoint": checkpoint.ref, "files": len(checkpoint.manifest.files), "verified": True}
    print(json.dumps(found) if as_json else f"{checkpoint.ref}: all {found['files']} files match their digests")


def promote(
    ref: Ref,
    alias: Annotated[str, typer.Option(help="Such as production; a reference may name it instead of a version.")],
    as_json: Json = False,
) -> None:
    """Point an alias at a version.

    Example: review-train promote store/reviews@v0003 --alias production
    """
    parts = layout.parse_ref(ref)
    if parts is None:
        raise InputError(f"{ref}: expected STORE/NAME@VERSION_OR_ALIAS")
    version = layout.resolve(ref).rpartition("/")[2]
    _alias_moved(alias, publish.promote(parts[0], parts[1], version, alias), as_json)


def rollback(
    store: Store, name: Name, alias: Annotated[str, typer.Option(help="The alias to move.")], as_json: Json = False
) -> None:
    """Point an alias back at the version before.

    Example: review-train rollback --store store --name reviews --alias production
    """
    _alias_moved(alias, publish.rollback(store, name, alias), as_json)


def _alias_moved(alias: str, entry: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"alias": alias} | entry.model_dump(mode="json")))
    else:
        print(f"{alias} is {entry.version}" + (f", was {entry.previous}" if entry.previous else ""))


COMMANDS = (list_, show_, verify, promote, rollback)
