"""The command line itself: help with examples that could be typed, mistakes in one line, and nothing heavy imported."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from worker import __version__, cli
from worker.settings import Settings
from worker.tools.config import describe

HEAVY = {"torch", "transformers", "kafka", "confluent_kafka", "tokenizers", "sklearn", "matplotlib", "pyarrow"}
SETTINGS = {f"--{name}" for name, *_ in describe(Settings.model_construct())}


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands(typer.main.get_command(cli.app)))
EACH = pytest.mark.parametrize("path", COMMANDS, ids=" ".join)


@EACH
def test_help_shows_an_example(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(cli.app, [*path, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert f"review-worker {' '.join(path)}" in result.output.split("Example")[-1]


@EACH
def test_the_example_has_only_options_that_exist(path: tuple[str, ...]) -> None:
    command = COMMANDS[path]
    known = {option for parameter in command.params for option in parameter.opts}
    if command.context_settings.get("ignore_unknown_options"):
        known |= SETTINGS
    examples = re.findall(rf"review-worker {' '.join(path)}\b.*", command.help.split("Example")[-1])
    assert examples
    for example in examples:
        words = shlex.split(example.split("|")[0])
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= known, f"{used - known} of: {example}"


def test_the_commands_of_the_design_are_there() -> None:
    wanted = "run classify produce tail config demo kafka dead-letters/list dead-letters/show dead-letters/replay"
    assert {*wanted.split(), "topics/create"} <= {"/".join(path) for path in COMMANDS}


def test_nothing_heavy_is_imported_for_help() -> None:
    script = "import sys, worker.cli; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not HEAVY.intersection(loaded)


def test_the_version() -> None:
    assert CliRunner().invoke(cli.app, ["--version"]).output.strip() == __version__


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--config", "nowhere.toml"], "nowhere.toml: no such file"),
        (["run", "--kafka.grup_id=x"], "no such setting: --kafka.grup_id"),
        (["run", "--http.port=x"], "setting http.port"),
        (["config", "--log.level=loud"], "setting log.level"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["review-worker", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output = capsys.readouterr()
    assert (ended.value.code, output.out) == (2, "")
    assert re.fullmatch(rf"review-worker: [^\n]*{re.escape(said)}[^\n]*\n", output.err), output.err


@pytest.mark.parametrize("mistake", cli.MISTAKES, ids=lambda mistake: mistake.__name__)
def test_every_kind_of_mistake_ends_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mistake: type[Exception]
) -> None:
    def app() -> None:
        raise mistake("what is wrong")

    monkeypatch.setattr(cli, "app", app)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert (ended.value.code, capsys.readouterr().err) == (2, "review-worker: what is wrong\n")


@pytest.mark.parametrize("arguments", [["classify"], ["nonsense"], ["tail", "--topic"]])
def test_a_wrong_call_says_what_is_wrong_without_a_traceback(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output and ("Error" in result.output or "Usage" in result.output)


def test_a_worker_without_a_checkpoint_says_so_and_ends_with_2() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WORKER_")}
    command = [sys.executable, "-c", "from worker.cli import main; main()", "run", "--http.port=0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env=clean)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.splitlines()[-1].startswith("review-worker: no checkpoint: give --checkpoint REF")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "ref"),
    [
        ([], "env"),
        (["--checkpoint.ref=flag"], "flag"),
        (["--checkpoint=option"], "option"),
        (["--checkpoint", "option", "--checkpoint.ref=flag"], "option"),
    ],
)
def test_what_stands_on_the_command_line_wins(monkeypatch: pytest.MonkeyPatch, arguments: list[str], ref: str) -> None:
    seen: list[str | None] = []
    monkeypatch.setenv("WORKER_CHECKPOINT__REF", "env")
    monkeypatch.setattr("worker.service.run", lambda settings: seen.append(settings.checkpoint.ref) or 3)
    assert CliRunner().invoke(cli.app, ["run", *arguments]).exit_code == 3, "how the worker ended is the exit code"
    assert seen == [ref]
