"""The checkpoint store's layout and its verifying reader."""

import hashlib
import uuid
from datetime import UTC, datetime
from pathlib import Path

import fsspec
import pytest

from schemas.manifest import Alias, CheckpointManifest, FileDigest
from schemas.recipe import TextRecipe
from schemas.store import CheckpointError, fetch, parse_ref, read_aliases, read_manifest, resolve

FILES = {"model.safetensors": b"weights", "config.json": b"{}", "report/README.md": b"# card"}


def manifest_of(files: dict[str, bytes], version: str = "v0001") -> CheckpointManifest:
    return CheckpointManifest(
        name="m",
        version=version,
        created_at=datetime.now(UTC),
        labels=["negative", "positive"],
        recipe=TextRecipe(),
        base_model="b",
        training={},
        code_version="0",
        library_versions={},
        files={
            file: FileDigest(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
            for file, content in files.items()
        },
    )


def put(location: str, files: dict[str, bytes], manifest: CheckpointManifest) -> None:
    filesystem, path = fsspec.core.url_to_fs(location)
    for file, content in [*files.items(), ("manifest.json", manifest.model_dump_json().encode())]:
        filesystem.makedirs(f"{path}/{file}".rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(f"{path}/{file}", content)


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store with m@v0001, production pointing at it."""
    uri = str(tmp_path / "store") if request.param == "disk" else f"memory://{uuid.uuid4().hex}"
    put(f"{uri}/m/v0001", FILES, manifest_of(FILES))
    alias = Alias(version="v0001", changed_at=datetime.now(UTC))
    with fsspec.open(f"{uri}/m/aliases.json", "w") as file:
        file.write(f'{{"production": {alias.model_dump_json()}}}')
    return uri


@pytest.mark.parametrize(
    ("ref", "parts"),
    [
        ("store/m@v0001", ("store", "m", "v0001")),
        ("s3://bucket/deep/m@production", ("s3://bucket/deep", "m", "production")),
        ("/a/b@c/v0001", None),
        ("plain/dir", None),
    ],
)
def test_references(ref: str, parts: tuple[str, str, str] | None) -> None:
    assert parse_ref(ref) == parts


@pytest.mark.parametrize("ref", ["m@v0001", "store/m@", "store/@v0001"])
def test_references_that_name_nothing(ref: str) -> None:
    with pytest.raises(CheckpointError):
        parse_ref(ref)


def test_an_alias_and_its_version_are_the_same(store: str, tmp_path: Path) -> None:
    by_alias, by_version = (fetch(f"{store}/m@{it}", tmp_path / "cache") for it in ("production", "v0001"))
    assert by_alias == by_version and by_alias.ref == "m@v0001"
    assert {file: (by_alias.directory / file).read_bytes() for file in FILES} == FILES
    assert fetch(f"{store}/m/v0001/", tmp_path / "cache").manifest == by_alias.manifest


def test_a_damaged_cache_is_fetched_anew(tmp_path: Path) -> None:
    store = f"memory://{uuid.uuid4().hex}"
    put(f"{store}/m/v0001", FILES, manifest_of(FILES))
    fetched: list[str] = []
    directory = fetch(f"{store}/m@v0001", tmp_path, fetched.append).directory
    assert fetched == [*FILES, "manifest.json"]
    fetch(f"{store}/m@v0001", tmp_path, fetched.append)
    assert len(fetched) == 4, "a whole cache is not fetched again"
    (directory / "config.json").write_text("tampered")
    (directory / "extra.json").write_text("more")
    assert fetch(f"{store}/m@v0001", tmp_path).directory == directory
    assert {path.relative_to(directory).as_posix() for path in directory.rglob("*.*")} == {*FILES, "manifest.json"}
    assert [path.name for path in tmp_path.iterdir()] == [directory.name]


@pytest.mark.parametrize(("file", "content"), [("model.safetensors", b"WEIGHTS"), ("config.json", None)])
def test_a_tampered_version_is_refused(store: str, tmp_path: Path, file: str, content: bytes | None) -> None:
    filesystem, path = fsspec.core.url_to_fs(f"{store}/m/v0001/{file}")
    filesystem.rm_file(path)
    if content:
        filesystem.pipe_file(path, content)
    with pytest.raises(CheckpointError, match=file if content or "memory" not in store else "v0001"):
        fetch(f"{store}/m@v0001", tmp_path / "cache")


def test_a_file_that_the_manifest_does_not_know_is_refused(tmp_path: Path) -> None:
    put(str(tmp_path), FILES, manifest_of(FILES))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin: not in the manifest"):
        fetch(str(tmp_path), tmp_path / "cache")


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "../outside.json", "report/deep/er.json", "/etc/x.json", "code.py"]
)
def test_only_files_of_the_allow_list_are_read(tmp_path: Path, file: str) -> None:
    put(str(tmp_path / "v"), {}, manifest_of(FILES | {file: b""}))
    with pytest.raises(CheckpointError, match="not a kind of file"):
        read_manifest(str(tmp_path / "v"))


def test_weights_must_be_safetensors(tmp_path: Path) -> None:
    put(str(tmp_path), {}, manifest_of({"config.json": b"{}"}))
    with pytest.raises(CheckpointError, match="only safetensors"):
        read_manifest(str(tmp_path))


def test_a_newer_manifest_says_so(tmp_path: Path) -> None:
    put(str(tmp_path), {}, manifest_of(FILES).model_copy(update={"format": 2}))
    with pytest.raises(CheckpointError, match="a newer version of this product wrote it"):
        read_manifest(str(tmp_path))


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("{store}/m@v0002", "manifest.json is missing"),
        ("{store}/m@nightly", "no alias 'nightly' (known: production)"),
        ("{store}/other@production", "no alias 'production' (known: none)"),
        ("{store}", "manifest.json is missing"),
        ("gopher://x/m@v0001", "gopher"),
    ],
)
def test_what_is_not_there_is_one_line(store: str, tmp_path: Path, ref: str, message: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        fetch(ref.format(store=store), tmp_path / "cache")
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_broken_aliases_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "aliases.json").write_text('{"production": {"version": 3}}')
    with pytest.raises(CheckpointError, match=r"aliases.json: production.version"):
        read_aliases(str(tmp_path), "m")
    (tmp_path / "m" / "manifest.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"manifest.json: Invalid JSON"):
        read_manifest(str(tmp_path / "m"))


def test_resolve_leaves_a_directory_alone() -> None:
    assert resolve("some/dir/") == "some/dir"
