"""Settings from flags, environment and file; a mistake is one line that names the setting and never shows a secret."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from worker.cli import app
from worker.configuration import ConfigurationError, load_settings, unknown_variables
from worker.settings import Settings
from worker.tools.config import describe, table

SECRET = "hunter2-hunter2"
DEFAULTS = Settings.model_construct()


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("WORKER_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "worker.toml"


def variable(setting: str) -> str:
    return "WORKER_" + setting.replace(".", "__").upper()


def value_of(settings: Settings, name: str) -> Any:
    return next(value for found, value, _, _ in describe(settings) if found == name)


@pytest.mark.parametrize(
    ("setting", "flag", "env", "in_file"),
    [
        ("kafka.group_id", "by-flag", "by-env", "by-file"),
        ("commit_interval", "1.5", "2.5", "3.5"),
        ("http.port", "1", "2", "3"),
        ("input.fields.text", "a.b", "c", "d"),
        ("delivery", "exactly_once", "exactly_once", "at_least_once"),
    ],
)
def test_flags_win_over_the_environment_it_over_the_file_and_that_over_defaults(
    monkeypatch: pytest.MonkeyPatch, file: Path, setting: str, flag: str, env: str, in_file: str
) -> None:
    default = value_of(DEFAULTS, setting)
    *group, name = setting.split(".")
    file.write_text((f"[{'.'.join(group)}]\n" if group else "") + f'{name} = "{in_file}"\n')
    for with_flag, with_env, with_file in itertools.product([True, False], repeat=3):
        if with_env:
            monkeypatch.setenv(variable(setting), env)
        else:
            monkeypatch.delenv(variable(setting), raising=False)
        settings = load_settings(file if with_file else None, [f"--{setting}={flag}"] if with_flag else [])
        expected = flag if with_flag else env if with_env else in_file if with_file else default
        assert value_of(settings, setting) == type(default)(expected)


def test_every_source_is_heard_for_what_the_others_leave_open(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    file.write_text('[kafka]\ngroup_id = "file"\ninput_topic = ["a", "b"]\n[checkpoint]\ncache_dir = "/cache"\n')
    monkeypatch.setenv("WORKER_KAFKA__OUTPUT_TOPIC", "env")
    settings = load_settings(file, ["--kafka.dead_letter_topic", "flag"], checkpoint={"ref": "store/m@v0001"})
    kafka = settings.kafka
    assert (kafka.group_id, kafka.output_topic, kafka.dead_letter_topic) == ("file", "env", "flag")
    assert kafka.input_topics == ["a", "b"]
    assert (settings.checkpoint.ref, settings.checkpoint.cache_dir) == ("store/m@v0001", Path("/cache"))


@pytest.mark.parametrize("name", [name for name, value, _, _ in describe(DEFAULTS) if value is not None])
def test_every_setting_can_be_given_in_the_environment_and_as_a_flag(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    default = value_of(DEFAULTS, name)
    by_flag = value_of(load_settings(None, [f"--{name}={default}"]), name)
    assert by_flag in (default, [default])
    monkeypatch.setenv(variable(name), str(default))
    assert value_of(load_settings(), name) == default
    assert unknown_variables() == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--kafka.grup_id=x"], "no such setting: --kafka.grup_id"),
        (["--kafka.group_i=x"], "no such setting: --kafka.group_i"),
        (["--nonsense"], "no such setting: --nonsense"),
        (["nonsense"], "unrecognized arguments: nonsense"),
        (["--http.port"], "--http.port: expected one argument"),
        (["--http.port=x"], "setting http.port: Input should be a valid integer"),
        (["--http.port=70000"], "setting http.port: Input should be less than or equal to 65535"),
        (["--delivery=twice"], "setting delivery: Input should be 'at_least_once' or 'exactly_once'"),
        (["--kafka.start=yesterday"], "setting kafka.start: expected earliest, latest or a time with its zone"),
        (["--in_flight=abc"], "setting in_flight: a group; give its settings, such as in_flight.records"),
        (["--input.fields=body"], "setting input.fields: a group"),
        (["--input.fields.text=a..b"], "setting input.fields.text: "),
        (["--input.fields.text=.a"], "setting input.fields.text: "),
        (["--input.fields.text=a."], "setting input.fields.text: "),
        (["--breaker.ratio=0", "--breaker.window=0"], "breaker.window: Input should be greater than or equal to 1"),
        (["--kafka.output_topic=reviews"], "setting kafka: input, output and dead-letter topics must all differ"),
        (["--kafka.heartbeat_interval=6"], "setting kafka: heartbeat_interval must be a third"),
        (["--kafka.security_protocol=SASL_SSL"], "setting kafka: SASL needs sasl_mechanism"),
    ],
)
def test_a_wrong_flag_is_one_clear_line(flags: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings(None, flags)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WORKER_KAFKA__GRUP_ID", "x", "setting kafka.grup_id: no such setting"),
        ("WORKER_KAFKA", "x", "setting kafka: a group"),
        ("WORKER_INPUT__FIELDS", "body", "setting input.fields: a group"),
        ("WORKER_HTTP__PORT", "", "setting http.port: "),
        ("WORKER_IN_FLIGHT__SECONDS", "nan", "setting in_flight.seconds: Input should be greater than 0"),
        ("WORKER_KAFKA__INPUT_TOPIC", '["a", "a"]', "topics must all differ"),
    ],
)
def test_a_wrong_variable_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as error:
        load_settings()
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[kafka\n", "at line 1"),
        (b"\xff\xfe[kafka]", "utf-8"),
        (b"[kafak]\ngroup_id = 'x'\n", "setting kafak: no such setting"),
        (b"[kafka]\ngrup_id = 'x'\n", "setting kafka.grup_id: no such setting"),
        (b"[http]\nport = 'x'\n", "setting http.port: "),
        (b"kafka = 5\n", "setting kafka: "),
        (None, "no such file"),
    ],
)
def test_a_wrong_file_is_one_clear_line(file: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        load_settings(file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert str(file) in str(error.value) or "setting" in str(error.value)


def test_a_folder_is_no_settings_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a file"):
        load_settings(tmp_path)


def test_a_misspelt_variable_is_noticed_and_a_tool_s_own_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_KAFAK__GROUP_ID", "x")
    monkeypatch.setenv("WORKER_CONFIG", "worker.toml")
    monkeypatch.setenv("WORKER_DELIVERY", "exactly_once")
    assert unknown_variables() == ["WORKER_KAFAK__GROUP_ID"]


def test_secrets_are_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKER_KAFKA__SASL_PASSWORD", SECRET)
    flags = [f"--kafka.ssl_key_password={SECRET}"]
    settings = load_settings(None, flags)
    assert settings.kafka.sasl_password is not None and settings.kafka.sasl_password.get_secret_value() == SECRET
    shown = [
        repr(settings),
        str(settings),
        repr(settings.kafka),
        settings.model_dump_json(),
        str(settings.model_dump()),
    ]
    for arguments in ([], ["--json"]):
        result = CliRunner().invoke(app, ["config", *arguments, *flags], env={"COLUMNS": "300"})
        assert result.exit_code == 0, result.output
        assert "sasl_password" in result.output
        shown.append(result.output)
    assert not any(SECRET in text for text in shown)


@pytest.mark.parametrize(
    "flags",
    [
        [f"--kafka.sasl_pasword={SECRET}"],
        ["--kafka.sasl_pasword", SECRET],
        [f"--kafka.sasl_password={SECRET}", "--http.port=x"],
        [f"--delivery={SECRET}"],
        [f'--kafka={{"sasl_pasword": "{SECRET}"}}'],
    ],
)
def test_no_mistake_repeats_a_value(flags: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_settings(None, flags)
    assert SECRET not in str(error.value)


def test_config_shows_what_is_in_effect_and_cuts_nothing(file: Path) -> None:
    brokers = ",".join(f"broker-{number}.somewhere.example:9092" for number in range(5))
    file.write_text(f'[kafka]\nbootstrap_servers = "{brokers}"\ninput_topic = ["[bold]", "b"]\n')
    result = CliRunner().invoke(app, ["config", "--config", str(file), "--json", "--http.port=1"])
    shown = json.loads(result.stdout.splitlines()[-1])
    assert (shown["kafka"]["bootstrap_servers"], shown["http"]["port"]) == (brokers, 1)
    narrow = CliRunner().invoke(app, ["config", "--config", str(file)], env={"COLUMNS": "60"}).output
    cells = [line.split("│")[2].strip() for line in narrow.splitlines() if line.count("│") == 4]
    assert brokers in "".join(cells) and "['[bold]', 'b']" in " ".join(cells)


def test_the_table_for_the_readme_has_every_setting_and_nothing_of_this_machine() -> None:
    text = table()
    for name, _, _, _ in describe(DEFAULTS):
        assert f"| `{name}` |" in text
    assert os.path.expanduser("~") + "/" not in text and "/tmp" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == len(list(describe(DEFAULTS))) + 2
    assert {row.count("|") for row in rows} == {4}
