"""The tools that will read deploy/ read it: docker compose, promtool, and a real Prometheus that evaluates every panel.

What is not installed is skipped, with the reason. No container is started.
"""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from worker import metrics
from worker.metrics import CATALOGUE, Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
PANELS = json.loads((DEPLOY / "grafana" / "dashboards" / "overview.json").read_text())["panels"]
COMPOSE_VARIABLES = {
    "CHECKPOINT_STORE": "/srv/store",
    "CHECKPOINT": "reviews@production",
    "GRAFANA_ADMIN_PASSWORD": "x",
}


def tool(name: str) -> str:
    found = shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not installed (Debian: apt-get install prometheus)")
    return found


def compose(*arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("no docker CLI with the compose plugin is installed")
    command = [docker, "compose", "-f", str(DEPLOY / "compose.yaml"), *arguments]
    variables = {name: value for name, value in COMPOSE_VARIABLES.items() if name != without}
    inherited = {name: value for name, value in os.environ.items() if name not in COMPOSE_VARIABLES}
    return subprocess.run(command, env=inherited | variables, capture_output=True, text=True, timeout=60)


def test_docker_compose_reads_the_files() -> None:
    done = compose("-f", str(DEPLOY / "compose.gpu.yaml"), "config", "--quiet")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variable", COMPOSE_VARIABLES)
def test_docker_compose_asks_for_what_only_the_user_knows(variable: str) -> None:
    done = compose("config", "--quiet", without=variable)
    assert done.returncode != 0 and variable in done.stderr


def test_promtool_reads_the_configuration() -> None:
    config = DEPLOY / "prometheus" / "prometheus.yml"
    done = subprocess.run([tool("promtool"), "check", "config", config], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus that has scraped two busy workers under the job of the shipped configuration."""
    binary, folder = tool("prometheus"), tmp_path_factory.mktemp("prometheus")
    workers = [Metrics(), Metrics()]
    servers = []
    for worker in workers:
        registry = CollectorRegistry()
        registry.register(worker)
        servers.append(start_http_server(0, "127.0.0.1", registry)[0])
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"]["scrape_interval"] = "200ms"
    job = config["scrape_configs"][0]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{server.server_port}" for server in servers]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [binary, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stderr=log)
    try:
        deadline = time.monotonic() + 30
        scraped = f"count(count_over_time(up{{job={json.dumps(job['job_name'])}}}[1m]) >= 5) == {len(workers)}"
        while not query(address, scraped):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            for partition, worker in enumerate(workers):
                work(worker, str(partition))
                worker.set(metrics.LAG, 5 + partition, "a topic", "moving")
            time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)
        for server in servers:
            server.shutdown()
            server.server_close()


def work(worker: Metrics, partition: str) -> None:
    """What a batch leaves in the metrics: every declared one moves."""
    for metric in CATALOGUE:
        labels = [partition if label == "partition" else f"a {label}" for label in metric.labels]
        if metric.kind == "histogram":
            worker.observe(metric, [metric.buckets[3]] * 10, *labels)
        elif metric.kind == "counter":
            worker.add(metric, 10, *labels)
        else:
            worker.set(metric, 1, *labels)


def query(address: str, expression: str) -> list[dict[str, list[str]]]:
    """The samples Prometheus answers with now; none while it does not answer."""
    form = urllib.parse.urlencode({"query": expression}).encode()
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query", form, timeout=10) as response:
            samples: list[dict[str, list[str]]] = json.load(response)["data"]["result"]
            return samples
    except urllib.error.HTTPError as error:
        if error.code == 503:  # starting
            return []
        raise AssertionError(error.read().decode()) from None
    except urllib.error.URLError:
        return []


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_panel_shows_data(prometheus: str, panel: dict[str, list[dict[str, str]]]) -> None:
    for target in panel["targets"]:
        samples = query(prometheus, target["expr"].replace("$__rate_interval", "5s").replace("$__range", "1m"))
        assert samples, target["expr"]
        assert all(0 < float(sample["value"][1]) < float("inf") for sample in samples), samples


def test_numbers_add_up_over_replicas(prometheus: str) -> None:
    shown = {panel["title"]: panel["targets"][0]["expr"] for panel in PANELS if panel["type"] == "stat"}
    assert query(prometheus, shown["Replicas ready"])[0]["value"][1] == "2"
    assert query(prometheus, shown["Lag"])[0]["value"][1] == "8"  # 1 and 1 of their own, 6 of what both report
