"""Metrics, probes, information and a status page on one port. Reads what others keep; decides nothing."""

from __future__ import annotations

import html
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder

from worker import metrics as m
from worker.health import Health

Response = tuple[int, str, bytes]

PAGE = """<!doctype html>
<html lang=en><meta charset=utf-8><meta http-equiv=refresh content=2><title>review-worker</title>
<style>body{{font:16px system-ui;margin:2rem}}td,th{{padding:.2rem 1rem .2rem 0;text-align:left}}</style>
<h1>review-worker is {state}</h1><table>{rows}</table><p><a href=/metrics>metrics</a> <a href=/info>info</a></html>"""


class HttpServer:
    """Serves until the process ends."""

    def __init__(self, host: str, port: int, health: Health, metrics: m.Metrics, info: Callable[[], Mapping[str, Any]]):
        """Raises OSError where the port cannot be had."""
        self._health = health
        self._metrics = metrics
        self._info = info
        self._registry = CollectorRegistry()
        self._registry.register(metrics)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        routes: dict[str, Callable[[str], Response]] = {
            "/metrics": self._serve_metrics,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/info": lambda accept: _json(200, self._info()),
            "/": self._page,
        }

        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0  # seconds for a client to say what it wants, else its thread would stay

            def do_GET(self) -> None:
                route = routes.get(self.path.split("?")[0])
                accept = self.headers.get("Accept", "")
                status, kind, body = route(accept) if route else (404, "text/plain", b"not found\n")
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Probes come every second; their log would drown the rest."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _serve_metrics(self, accept: str) -> Response:
        encode, kind = choose_encoder(accept)
        return 200, kind, encode(self._registry)

    def _livez(self, accept: str) -> Response:
        problem = self._health.fault or self._health.stalled(time.monotonic())
        return _text(503, problem) if problem else _text(200, "alive")

    def _readyz(self, accept: str) -> Response:
        return _text(200, "ready") if self._health.ready else _text(503, self._state())

    def _state(self) -> str:
        health = self._health
        if health.fault:
            return "at fault"
        if health.draining:
            return "draining"
        return "ready" if health.ready else "joining its group" if health.warm else "warming up"

    def _page(self, accept: str) -> Response:
        value, quantiles = self._metrics.value, self._metrics.quantiles
        rows = {
            "labelled": f"{value(m.LABELLED):,.0f}",
            "dead letters": f"{value(m.REJECTED):,.0f}",
            "in flight": f"{value(m.IN_FLIGHT):,.0f}",
            "lag": f"{value(m.LAG):,.0f} records in {value(m.OWNED):.0f} partitions",
            "poll to acknowledgement": " / ".join(
                f"{q * 1000:,g}" for q in quantiles(m.RECORD_SECONDS, (0.5, 0.95, 0.99))
            )
            + " ms (p50 / p95 / p99, since start)",
            "device busy": f"{value(m.DEVICE_BUSY):,.0f} s",
            "blocked by the broker": f"{value(m.BLOCKED):,.0f} s",
            **{key: str(item) for key, item in self._info().items() if isinstance(item, str | int)},
        }
        body = "".join(f"<tr><th>{html.escape(key)}<td>{html.escape(item)}" for key, item in rows.items())
        return 200, "text/html; charset=utf-8", PAGE.format(state=html.escape(self._state()), rows=body).encode()


def _text(status: int, text: str) -> Response:
    return status, "text/plain; charset=utf-8", text.encode() + b"\n"


def _json(status: int, content: Mapping[str, Any]) -> Response:
    return status, "application/json", json.dumps(content).encode() + b"\n"
