"""Reads the settings tree from flags, environment and file; a mistake becomes one clear line."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliSettingsSource, PydanticBaseSettingsSource, TomlConfigSettingsSource
from pydantic_settings.exceptions import SettingsError

from schemas.errors import said
from worker.settings import Settings

ENV_PREFIX = "WORKER_"


class ConfigurationError(ValueError):
    """Something a person must change before the worker can start: one clear line, exit code 2."""


def load_settings(config: Path | None = None, flags: Sequence[str] = (), **overrides: Any) -> Settings:
    """The effective settings; ConfigurationError names the setting and what is wrong with it.

    `flags` are what stood on the command line, such as `--kafka.group_id=reviews-eu`; `overrides` win over everything.
    """
    if config is not None and not config.is_file():
        raise ConfigurationError(f"--config {config}: {'is not a file' if config.exists() else 'no such file'}")

    class Loaded(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                init_settings,
                CliSettingsSource(
                    settings_cls,
                    cli_prog_name="review-worker run",
                    cli_parse_args=list(flags),
                    cli_exit_on_error=False,
                    cli_avoid_json=True,
                ),
                env_settings,
                TomlConfigSettingsSource(settings_cls, toml_file=config),
            )

    try:
        loaded = Loaded(**overrides)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from None
    except SettingsError as error:
        raise ConfigurationError(_group_given(flags) or _without_values(str(error), flags)) from None
    except (OSError, ValueError) as error:  # what reading the file raises: not readable, not UTF-8, not TOML
        raise ConfigurationError(f"--config {config}: {error}") from None
    return Settings.model_construct(**{name: getattr(loaded, name) for name in Settings.model_fields})


def unknown_variables() -> list[str]:
    """Environment variables that look like settings but are none: most likely misspelt."""
    known = {ENV_PREFIX + name.upper() for name in ["config", *Settings.model_fields]}
    return sorted(name for name in os.environ if name.startswith(ENV_PREFIX) and name.split("__")[0] not in known)


def _explain(error: ValidationError) -> str:
    problems = []
    for problem in error.errors(include_input=False, include_url=False):
        what = "no such setting" if problem["type"] == "extra_forbidden" else said(problem)
        problems.append(": ".join(filter(None, (".".join(map(str, problem["loc"])), what))))
    return "setting " + "; ".join(problems)


def _group_given(flags: Sequence[str]) -> str | None:
    """Which group was given a value as if it were a setting, in words; what could not be read of it names its root."""
    for name, group in _groups(Settings):
        variable = ENV_PREFIX + name.replace(".", "__").upper()
        if variable in map(str.upper, os.environ) or any(flag.partition("=")[0] == f"--{name}" for flag in flags):
            return f"setting {name}: a group; give its settings, such as {name}.{next(iter(group.model_fields))}"
    return None


def _groups(group: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield prefix + name, field.annotation
            yield from _groups(field.annotation, f"{prefix}{name}.")


def _without_values(message: str, flags: Sequence[str]) -> str:
    """What the parser of flags says, on one line. It repeats unknown flags whole, a misspelt password's among them."""
    names = [flag.partition("=")[0] for flag in flags if flag.startswith("-") and flag in message]
    if "unrecognized arguments" in message and names:
        return f"no such setting: {', '.join(names)}"
    return " ".join(message.split())
