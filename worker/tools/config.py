"""`review-worker config`: the effective settings with their meaning, secrets masked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from worker.configuration import load_settings
from worker.settings import Settings
from worker.tools.connection import Config


def config_command(
    context: typer.Context,
    config: Config = None,
    as_json: Annotated[bool, typer.Option("--json", help="Values only, as one line of JSON.")] = False,
    markdown: Annotated[bool, typer.Option(help="The table of settings and defaults that the README shows.")] = False,
) -> None:
    """Show the settings that `run` would use, and what each is for. Secrets are masked.

    Example: review-worker config --config worker.toml --kafka.group_id=reviews-eu
    """
    if markdown:
        print(table())
        return
    settings = load_settings(config, context.args)
    if as_json:
        print(settings.model_dump_json())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = Table()
    for heading in ("setting", "value", "what it is for"):
        rows.add_column(heading, overflow="fold")  # a cut value would be worse than a broken one
    for name, value, _, description in describe(settings):
        rows.add_row(name, Text(str(value)), description)
    Console().print(rows)


def describe(group: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """(dotted name, value, default, description) of every setting."""
    for name, field in type(group).model_fields.items():
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from describe(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, field.get_default(call_default_factory=True), field.description or ""


def table() -> str:
    """Markdown of all settings and their defaults."""
    lines = ["| setting | default | what it is for |", "| --- | --- | --- |"]
    for name, _, default, description in describe(Settings.model_construct()):
        if isinstance(default, Path):
            default = "below the system's temporary directory"
        shown = "" if default is None else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        lines.append(f"| `{name}` | {shown} | {description} |")
    return "\n".join(lines)
