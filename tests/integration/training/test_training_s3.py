"""Stores on S3, against a server that speaks it: publishing, verifying, aliases, and what is said without access."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from schemas.store import CheckpointError, fetch, read_aliases
from tests.unit.test_store import FILES, manifest_of
from training.errors import InputError
from training.publish import names, prepare, promote, publish, rollback, versions


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, "test")
    _forget_connections()
    yield
    server.stop()
    _forget_connections()


@pytest.fixture
def store(server: None) -> str:
    import s3fs

    bucket = f"models-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem().mkdir(bucket)
    return f"s3://{bucket}/reviews"


def _forget_connections() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def stage(directory: Path, weights: bytes) -> Path:
    for file, content in (FILES | {"model.safetensors": weights}).items():
        (directory / file).parent.mkdir(parents=True, exist_ok=True)
        (directory / file).write_bytes(content)
    return directory


def test_versions_and_aliases(store: str, tmp_path: Path) -> None:
    prepare(store, "m")
    assert names(store) == []
    with ThreadPoolExecutor(4) as pool:
        staged = [stage(tmp_path / str(number), str(number).encode()) for number in range(4)]
        published = list(pool.map(lambda directory: publish(directory, store, manifest_of({})), staged))
    assert (
        sorted(manifest.version for manifest in published)
        == versions(store, "m")
        == ["v0001", "v0002", "v0003", "v0004"]
    )
    assert names(store) == ["m"]
    for number, manifest in enumerate(published):
        checkpoint = fetch(f"{store}/m@{manifest.version}", tmp_path / "cache")
        assert (checkpoint.directory / "model.safetensors").read_text() == str(number)
    promote(store, "m", "v0001", "production")
    promote(store, "m", "v0002", "production")
    assert rollback(store, "m", "production").version == "v0001"
    assert read_aliases(store, "m")["production"].previous == "v0002"
    assert fetch(f"{store}/m@production", tmp_path / "cache").ref == "m@v0001"


def test_a_bucket_that_is_not_there(server: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--store s3://none"):
        prepare("s3://none-of-ours/reviews", "m")
    with pytest.raises(CheckpointError, match="no alias"):
        fetch("s3://none-of-ours/reviews/m@production", tmp_path)


def test_without_access(server: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    _forget_connections()
    with pytest.raises(InputError, match="--store s3://bucket: cannot write there"):
        prepare("s3://bucket", "m")
    with pytest.raises(CheckpointError) as raised:
        fetch("s3://bucket/m@v0001", tmp_path)
    assert "\n" not in str(raised.value)
