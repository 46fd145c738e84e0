"""Publishing is all or nothing and never overwrites; aliases move and move back; the commands say what is wrong."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from schemas.manifest import CheckpointManifest
from schemas.recipe import TextRecipe
from schemas.store import CheckpointError, fetch, read_aliases
from training import cli
from training.errors import InputError
from training.publish import names, prepare, promote, publish, rollback, versions

DRAFT = CheckpointManifest(
    name="m",
    version="v0000",
    created_at=datetime.now(UTC),
    labels=["negative", "positive"],
    recipe=TextRecipe(),
    base_model="b",
    training={},
    code_version="0",
    library_versions={},
    files={},
)


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def stage(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a directory with the files of a version."""

    def make(weights: str = "weights") -> Path:
        directory = tmp_path / uuid.uuid4().hex
        (directory / "report").mkdir(parents=True)
        (directory / "model.safetensors").write_text(weights)
        (directory / "config.json").write_text("{}")
        (directory / "report" / "README.md").write_text("# card")
        return directory

    return make


def test_a_version_is_whole_and_the_next_one_is_another(store: str, stage: Any, tmp_path: Path) -> None:
    prepare(store, "m")
    assert names(store) == [] and versions(store, "m") == []
    first, second = publish(stage("1"), store, DRAFT), publish(stage("2"), store, DRAFT)
    assert [first.version, second.version] == versions(store, "m") == ["v0001", "v0002"]
    assert names(store) == ["m"]
    for manifest, weights in ((first, "1"), (second, "2")):
        checkpoint = fetch(f"{store}/m@{manifest.version}", tmp_path / "cache")
        assert checkpoint.manifest == manifest
        assert (checkpoint.directory / "model.safetensors").read_text() == weights
        assert set(manifest.files) == {"model.safetensors", "config.json", "report/README.md"}


def test_runs_that_publish_at_once_get_versions_of_their_own(store: str, stage: Any, tmp_path: Path) -> None:
    prepare(store, "m")
    with ThreadPoolExecutor(8) as pool:
        published = list(pool.map(lambda number: publish(stage(str(number)), store, DRAFT), range(8)))
    assert sorted(manifest.version for manifest in published) == versions(store, "m")
    assert len(versions(store, "m")) == 8
    for number, manifest in enumerate(published):
        found = fetch(f"{store}/m@{manifest.version}", tmp_path / "cache")
        assert (found.directory / "model.safetensors").read_text() == str(number)


def test_a_run_that_dies_while_publishing_leaves_no_version(
    store: str, stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(store, "m")
    publish(stage("1"), store, DRAFT)

    def die(*args: Any, **_: Any) -> None:
        if str(args[-1]).endswith("README.md"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", die)
        patch.setattr(MemoryFileSystem, "put_file", lambda self, *args: die(*args))
        with pytest.raises(KeyboardInterrupt):
            publish(stage("2"), store, DRAFT)
    assert versions(store, "m") == ["v0001"]
    if "memory" not in store:
        assert os.listdir(f"{store}/m") == ["v0001"], "nothing is left behind"
    third = publish(stage("3"), store, DRAFT)
    assert fetch(f"{store}/m@{third.version}", tmp_path / "cache").manifest == third


def test_a_version_holds_only_files_of_the_allow_list(store: str, stage: Any) -> None:
    staged = stage()
    (staged / "training_args.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"training_args.bin is not a kind of file"):
        publish(staged, store, DRAFT)
    assert versions(store, "m") == []


def test_files_of_a_version_can_be_read_by_everyone_that_may_read_the_store(tmp_path: Path, stage: Any) -> None:
    store = tmp_path / "store"
    prepare(str(store), "m")
    staged = stage()
    staged.chmod(0o700)
    publish(staged, str(store), DRAFT)
    umask = os.umask(0)
    os.umask(umask)
    for path in (store / "m" / "v0001").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o777 if path.is_dir() else 0o666) & ~umask


def test_aliases_move_and_move_back(store: str, stage: Any) -> None:
    prepare(store, "m")
    for _ in range(3):
        publish(stage(), store, DRAFT)
    for version, previous in (("v0001", None), ("v0003", "v0001"), ("v0003", "v0001")):
        promote(store, "m", version, "production")
        alias = read_aliases(store, "m")["production"]
        assert (alias.version, alias.previous) == (version, previous)
    promote(store, "m", "v0002", "staging")
    assert rollback(store, "m", "production").version == "v0001"
    assert rollback(store, "m", "production").version == "v0003"
    assert {name: alias.version for name, alias in read_aliases(store, "m").items()} == {
        "production": "v0003",
        "staging": "v0002",
    }


def test_aliases_that_cannot_move(store: str, stage: Any) -> None:
    prepare(store, "m")
    publish(stage(), store, DRAFT)
    with pytest.raises(CheckpointError, match=r"manifest.json is missing"):
        promote(store, "m", "v0002", "production")
    with pytest.raises(InputError, match="a word such as production"):
        promote(store, "m", "v0001", "v0001")
    with pytest.raises(InputError, match="no alias 'production'"):
        rollback(store, "m", "production")
    promote(store, "m", "v0001", "production")
    with pytest.raises(InputError, match="never pointed anywhere but at v0001"):
        rollback(store, "m", "production")


@pytest.mark.parametrize(
    ("store", "name"), [("gopher://x", "m"), ("/proc/nowhere", "m"), ("{tmp}", "a/b"), ("{tmp}", "m@v1")]
)
def test_a_store_that_cannot_be_written_is_noticed_first(tmp_path: Path, store: str, name: str) -> None:
    with pytest.raises(InputError, match=r"--(store|name)"):
        prepare(store.format(tmp=tmp_path), name)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    monkeypatch.setattr("sys.argv", ["review-train", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_the_commands_of_a_store(
    store: str, stage: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(*arguments: str) -> Any:
        code, out, err = run(capsys, monkeypatch, *arguments, "--json")
        assert code == 0, err
        return json.loads(out.splitlines()[-1])

    prepare(store, "m")
    publish(stage(), store, DRAFT)
    publish(stage(), store, DRAFT)
    assert command("promote", f"{store}/m@v0001", "--alias", "production")["version"] == "v0001"
    assert command("promote", f"{store}/m@v0002", "--alias", "production")["previous"] == "v0001"
    assert command("rollback", "--store", store, "--name", "m", "--alias", "production")["version"] == "v0001"
    listed = command("list", "--store", store)["versions"]
    assert [(row["version"], row["aliases"]) for row in listed] == [("v0001", ["production"]), ("v0002", [])]
    assert command("show", f"{store}/m@production")["version"] == "v0001"
    assert command("verify", f"{store}/m@production") == {"checkpoint": "m@v0001", "files": 3, "verified": True}
    for arguments in (("list", "--store", store), ("show", f"{store}/m@v0002")):
        code, out, _ = run(capsys, monkeypatch, *arguments)
        assert code == 0 and "v0002" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "{tmp}/none@v0001"),
        ("show", "{tmp}/none@production"),
        ("promote", "{tmp}", "--alias", "production"),
        ("rollback", "--store", "{tmp}", "--name", "none", "--alias", "production"),
        ("list", "--store", "gopher://x"),
        ("list", "--store", "{tmp}/none"),
        ("list", "--store", "{tmp}/none", "--name", "m"),
        ("list",),
        ("fit", "--data", "x.csv", "--store", "{tmp}", "--name", "m", "--split", "1/2/3"),
        ("fit", "--data", "x.csv", "--store", "{tmp}", "--name", "m", "--labels", "nonsense"),
        ("fit", "--data", "x.csv", "--store", "{tmp}", "--name", "m", "--text-template", "no field"),
        ("fit", "--data", "x.csv", "--store", "{tmp}", "--name", "m", "--learning-rate", "-1"),
    ],
)
def test_mistakes_are_exit_code_2_without_a_traceback(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = run(capsys, monkeypatch, *(argument.format(tmp=tmp_path) for argument in arguments))
    assert code == 2
    assert "Traceback" not in err and "Value error" not in err and err.strip()


def test_a_missing_extra_is_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "scipy" else object())
    code, _, err = run(capsys, monkeypatch, "evaluate", "--checkpoint", "x", "--data", "y.csv")
    assert code == 2 and err.count("\n") == 1 and "pip install 'review-stream-classifier[train]'" in err
