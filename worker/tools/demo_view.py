"""What the demo shows while reviews go by: a live page in a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from worker.tools.demo_stream import Ledger

COLOURS = {"positive": "green", "negative": "red"}
PLAIN_SECONDS = 5.0


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds; zeros when there is nothing."""
    ordered = sorted(latencies) or [0.0]
    return {
        f"p{share}": round(ordered[min(len(ordered) - 1, len(ordered) * share // 100)] * 1000, 1)
        for share in (50, 95, 99)
    }


class View:
    """A context manager; `refresh` may be called as often as wanted."""

    def __init__(self, console: Console, ledger: Ledger) -> None:
        self._console = console
        self._ledger = ledger
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._shown_at = 0.0
        self._before = (time.monotonic(), 0)
        self._rate = 0.0
        self.phase = ""

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def refresh(self) -> None:
        now = time.monotonic()
        since, done = self._before
        if now - since >= 1.0:
            self._rate, self._before = (self._ledger.done - done) / (now - since), (now, self._ledger.done)
        if self._live:
            self._live.update(self.page(), refresh=True)
        elif now - self._shown_at >= PLAIN_SECONDS:
            self._shown_at = now
            numbers = ", ".join(f"{name} {value}" for name, value in self._numbers().items())
            self._console.print(f"{self.phase}: {numbers}", highlight=False, soft_wrap=True)

    def page(self) -> Panel:
        """The whole page."""
        going_by = Table.grid(padding=(0, 1), expand=True)
        going_by.add_column(width=8)
        going_by.add_column(width=5, justify="right")
        going_by.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        for label, score, text in list(self._ledger.recent):
            going_by.add_row(
                Text(label, style=f"bold {COLOURS.get(label, 'cyan')}"), f"{score:.0%}", " ".join(text.split())
            )
        numbers = Table.grid(padding=(0, 3))
        shown = self._numbers()
        numbers.add_row(*(Text(name, style="dim") for name in shown))
        numbers.add_row(*(Text(value, style="bold") for value in shown.values()))
        return Panel(Group(going_by, "", numbers), title="review-worker demo", subtitle=self.phase, padding=(1, 2))

    def _numbers(self) -> dict[str, str]:
        ledger = self._ledger
        latency = percentiles(ledger.latencies)
        return {
            "sent": f"{ledger.sent:,}",
            "labelled": f"{len(ledger.results):,}",
            "dead letters": f"{ledger.dead_letters:,}",
            "right": f"{ledger.right / max(1, len(ledger.results)):.1%}",
            "per second": f"{self._rate:,.0f}",
            "p50 / p95 / p99": " / ".join(f"{value:,.0f}" for value in latency.values()) + " ms",
            "lag": f"{max(0, ledger.sent - ledger.done):,}",
        }
