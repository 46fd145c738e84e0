"""Metrics, probes and pages over a real socket."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from worker import metrics as m
from worker.health import Health
from worker.http import HttpServer
from worker.metrics import PREFIX, Metrics
from worker.settings import HttpSettings


class Site:
    def __init__(self) -> None:
        self.health = Health(limits={"infer": 30.0, "broker": 600.0})
        self.metrics = Metrics()
        self.info: dict[str, Any] = {"version": "0.1.0"}
        self.server = HttpServer(HttpSettings().host, 0, self.health, self.metrics, lambda: self.info)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, str]:
        """Status, content type and body."""
        request = urllib.request.Request(self.server.address + path, method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read().decode()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    threading.Thread(target=site.server.close, daemon=True).start()  # takes half a second, which nobody needs to wait


def test_it_listens_on_this_machine_only_unless_told_otherwise(site: Site) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", site.server.address)


def test_a_port_that_is_taken_is_an_error_at_start(site: Site) -> None:
    port = int(site.server.address.rsplit(":", 1)[1])
    with pytest.raises(OSError):
        HttpServer("127.0.0.1", port, site.health, site.metrics, dict)


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "/livezz", "/../etc/passwd", "/info/x?y"])
def test_what_is_not_there_is_not_found(site: Site, path: str) -> None:
    assert site.get(path)[0] == 404


def test_nothing_can_be_sent(site: Site) -> None:
    assert site.get("/livez", "POST")[0] == 501


def test_a_query_does_not_matter(site: Site) -> None:
    assert site.get("/livez?verbose=1")[0] == 200


def test_alive_from_the_start_until_a_fault(site: Site) -> None:
    assert site.get("/livez") == (200, "text/plain; charset=utf-8", "alive\n")
    site.health.fault = "RuntimeError: boom"
    assert site.get("/livez")[::2] == (503, "RuntimeError: boom\n")


def test_alive_while_there_is_progress_or_a_broker_to_wait_for(site: Site) -> None:
    site.health.busy("infer-0", time.monotonic() - 29)
    site.health.busy("broker", time.monotonic() - 500)
    assert site.get("/livez")[0] == 200
    site.health.busy("infer-0", time.monotonic() - 31)
    status, _, body = site.get("/livez")
    assert status == 503 and "stage infer-0 has made no progress for 31." in body
    site.health.idle("infer-0")
    assert site.get("/livez")[0] == 200


def test_ready_goes_through_its_states(site: Site) -> None:
    assert site.get("/readyz")[::2] == (503, "warming up\n")
    site.health.warm = True
    assert site.get("/readyz")[::2] == (503, "joining its group\n")
    site.health.joined = True
    assert site.get("/readyz")[::2] == (200, "ready\n")
    site.health.busy("broker", time.monotonic() - 500)
    assert site.get("/readyz")[0] == 200, "whatever the broker does"
    site.health.draining = True
    assert site.get("/readyz")[::2] == (503, "draining\n")
    site.health.fault = "boom"
    assert site.get("/readyz")[::2] == (503, "at fault\n")
    assert "boom" not in site.get("/readyz")[2]


def test_metrics_are_those_of_the_worker_and_of_its_process(site: Site) -> None:
    site.metrics.add(m.CONSUMED, 5, "reviews")
    status, kind, body = site.get("/metrics")
    assert (status, kind.split(";")[0]) == (200, "text/plain")
    values = {sample.name: sample.value for family in parse(body) for sample in family.samples}
    assert values[PREFIX + "consumed_records_total"] == 5
    assert {"process_resident_memory_bytes", "python_info"} <= values.keys()
    _, kind, body = site.get("/metrics", Accept="application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert PREFIX + "consumed_records" in {family.name for family in parse_openmetrics(body)}


def test_info_is_json_and_always_the_latest(site: Site) -> None:
    site.info = {"version": "1", "labels": ["a", "b"]}
    status, kind, body = site.get("/info")
    assert (status, kind, json.loads(body)) == (200, "application/json", site.info)


def test_the_page_needs_nothing_from_elsewhere_and_trusts_no_text(site: Site) -> None:
    site.info = {"version": "<script>alert(1)</script>", "labels": ["left out"], "token_budget": 2048}
    site.metrics.add(m.LABELLED, 12345, "positive", "v0001")
    site.metrics.set(m.LAG, 7, "reviews", "0")
    site.metrics.set(m.LAG, 8, "reviews", "1")
    status, kind, body = site.get("/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert "review-worker is warming up" in body
    for row in ("labelled<td>12,345", "lag<td>15 records", "token_budget<td>2048", "&lt;script&gt;"):
        assert row in body
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|https?:|//", body)
    assert set(re.findall(r"href=([^>\s]+)", body)) == {"/metrics", "/info"}


def test_a_client_that_says_nothing_keeps_nobody_waiting(site: Site) -> None:
    host, port = site.server.address.removeprefix("http://").split(":")
    silent = [socket.create_connection((host, int(port)), timeout=5) for _ in range(4)]
    try:
        assert site.get("/livez")[0] == 200
    finally:
        for connection in silent:
            connection.close()


def test_once_closed_nobody_answers() -> None:
    site = Site()
    site.server.close()
    with pytest.raises(OSError):
        site.get("/livez")
