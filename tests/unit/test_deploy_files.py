"""Dockerfile, compose file and locks keep what they promise, as far as reading shows. Nothing is built or started."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from worker.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LOCKS = ("worker.txt", "training.txt")


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint() -> None:
    run(str(Path(sys.executable).with_name("hadolint")), "deploy/Dockerfile")


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_file_follows_the_compose_specification(name: str) -> None:
    command = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec")
    run(*command, f"deploy/{name}")


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_pinned_and_confined(name: str) -> None:
    service = SERVICES[name]
    assert re.search(r":v?\d+\.\d+\.\d+$", service["image"]) or service["image"] == SERVICES["worker"]["image"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for volume in service.get("volumes", []):
        if isinstance(volume, str) and volume.startswith("."):
            assert (DEPLOY / volume.split(":")[0]).exists() and volume.endswith(":ro")
    for variable, value in service.get("environment", {}).items():
        assert not re.search("PASSWORD|SECRET|TOKEN", variable) or re.fullmatch(r"\$\{\w+:\?.+\}", value)


def test_worker_scales() -> None:
    assert not {"ports", "container_name", "hostname"} & SERVICES["worker"].keys()


def test_worker_needs_nothing_but_tmp() -> None:
    for name in ("worker", "topics"):
        assert SERVICES[name]["read_only"] and SERVICES[name]["tmpfs"] == ["/tmp"]
    assert all(volume["read_only"] for volume in SERVICES["worker"]["volumes"])


def test_kafka_is_the_one_the_tests_run_on() -> None:
    jars = json.loads((ROOT / "worker" / "tools" / "kafka_jars.json").read_text())["jars"]
    version = next(jar for jar in jars if jar.startswith("org.apache.kafka:kafka_")).rsplit(":")[-1]
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{version}"


def test_worker_variables_are_settings() -> None:
    for name in ("worker", "topics"):
        for variable in SERVICES[name]["environment"]:
            group: Any = Settings
            for part in variable.removeprefix("WORKER_").lower().split("__"):
                assert isinstance(group, type) and issubclass(group, BaseModel) and part in group.model_fields, variable
                group = group.model_fields[part].annotation


def test_port_and_patience_agree_with_the_settings() -> None:
    defaults = Settings.model_construct()
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert prometheus["scrape_configs"][0]["dns_sd_configs"][0]["port"] == defaults.http.port
    assert f"'WORKER_HTTP__PORT', {defaults.http.port}" in (DEPLOY / "Dockerfile").read_text()
    assert float(SERVICES["worker"]["stop_grace_period"].removesuffix("s")) > defaults.drain_timeout


@pytest.mark.parametrize("name", LOCKS)
def test_lock_is_a_part_of_the_tested_one(name: str) -> None:
    lock = (ROOT / "requirements" / name).read_text()
    pinned = re.findall(r"^[\w.-]+==\S+", lock, re.MULTILINE)
    assert pinned and "://" not in lock
    tested = re.findall(r"^[\w.-]+==\S+", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert set(pinned) <= set(tested), "stale: refresh the locks together"
