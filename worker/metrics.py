"""Every metric of the worker, declared once: name, type, unit, labels, help. Knows nothing of who counts or who reads.

Stages add numbers once a batch; Prometheus' text is made only when somebody asks. Names start with `review_worker_`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "review_worker_"

# Milliseconds to minutes, finer where service levels are set.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600)
RECORDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
TOKENS = (8, 16, 32, 64, 96, 128, 160, 192, 256, 384, 512)
BATCH_TOKENS = (64, 256, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144)


@dataclass(frozen=True, slots=True, eq=False)
class Declaration:
    """One metric. `name` is without prefix, and for counters without `_total`."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def exposed_names(self) -> tuple[str, ...]:
        """Names of the series that a query may use."""
        full = PREFIX + self.name
        if self.kind == "counter":
            return (full + "_total",)
        return (full + "_bucket", full + "_sum", full + "_count") if self.kind == "histogram" else (full,)


CATALOGUE: list[Declaration] = []


def _counter(name: str, help: str, *labels: str) -> Declaration:
    CATALOGUE.append(Declaration("counter", name, help, labels))
    return CATALOGUE[-1]


def _gauge(name: str, help: str, *labels: str) -> Declaration:
    CATALOGUE.append(Declaration("gauge", name, help, labels))
    return CATALOGUE[-1]


def _histogram(name: str, help: str, buckets: Sequence[float], *labels: str) -> Declaration:
    CATALOGUE.append(Declaration("histogram", name, help, labels, tuple(buckets)))
    return CATALOGUE[-1]


CONSUMED = _counter("consumed_records", "Records read from the input topics.", "topic")
LABELLED = _counter("labelled_records", "Results that the broker has acknowledged.", "label", "model_version")
REJECTED = _counter("rejected_records", "Dead letters that the broker has acknowledged.", "reason", "stage")
TOMBSTONES = _counter("tombstones", "Null values, by what became of them.", "action")
INVALID_OPTIONAL = _counter(
    "invalid_optional_fields", "Optional fields of a wrong type, carried as they came.", "field"
)
TRUNCATED = _counter("truncated_records", "Labelled reviews that were longer than the model reads.")
REVIEW_OMITTED = _counter("omitted_reviews", "Results sent without the review because of the topic's message limit.")
TOKENS_CLASSIFIED = _counter("classified_tokens", "Tokens that went through the model.")
NEGATIVE_AGE = _counter("negative_ages", "Records stamped later than this machine's clock; their age counts as 0.")
STALE = _counter("stale_results", "Results dropped because their partition had been taken away or read again.")
REBALANCES = _counter("rebalances", "Changes of the assignment.", "kind")
REWINDS = _counter("rewinds", "Times everything in flight was read again after a failed delivery.")
COMMITS = _counter("commits", "Offset commits, by outcome.", "outcome")
BISECTIONS = _counter("bisections", "Batches split in two because the model failed on them.")
OUT_OF_MEMORY = _counter("out_of_memory", "Batches that did not fit the device's memory; the budget was halved.")
DEVICE_BUSY = _counter("device_busy_seconds", "Seconds the device was computing.")
DEVICE_STARVED = _counter("device_idle_with_work_seconds", "Seconds the device stood idle while tokens were queued.")
CPU = _counter("cpu_seconds", "CPU seconds by part; native is the tokenizer's and the model's own threads.", "part")
PAUSED = _counter("paused_seconds", "Seconds fetching was paused because too much was in flight.")
BLOCKED = _counter("blocked_seconds", "Seconds in which nothing in flight moved because a broker did not answer.")
LAG = _gauge("lag_records", "Records readable and not yet committed.", "topic", "partition")
COMMITTED = _gauge("committed_offset", "Offset committed last.", "topic", "partition")
OWNED = _gauge("owned_partitions", "Partitions assigned to this worker.")
IN_FLIGHT = _gauge("in_flight_records", "Records read and not yet acknowledged.")
IN_FLIGHT_BYTES = _gauge("in_flight_bytes", "Bytes of the records read and not yet acknowledged.")
QUEUED_TOKENS = _gauge("queued_tokens", "Tokens waiting for the device.")
TOKEN_BUDGET = _gauge("token_budget", "Most tokens in one batch.")
READY = _gauge("ready", "1 while the worker is warm, a member of its group and neither draining nor at fault.")
MODEL = _gauge("model_info", "1 for the model that serves.", "name", "version", "digest", "device", "dtype")
BUILD = _gauge("build_info", "1 for the version of the worker and its Kafka client.", "version", "client")
STAGE_SECONDS = _histogram("stage_seconds", "Seconds a record spent in a stage, its queue included.", SECONDS, "stage")
RECORD_SECONDS = _histogram("record_seconds", "Seconds from poll to acknowledgement.", SECONDS)
RECORD_AGE = _histogram("record_age_seconds", "Age of the record, by its timestamp, when acknowledged.", SECONDS)
EVENT_AGE = _histogram("event_age_seconds", "Age of the review, by created_at, when acknowledged.", SECONDS)
RECORD_TOKENS = _histogram("record_tokens", "Tokens of a review as the model reads it.", TOKENS)
BATCH_RECORDS = _histogram("batch_records", "Records in one batch.", RECORDS)
BATCH_TOKENS_SIZE = _histogram("batch_tokens", "Tokens in one batch.", BATCH_TOKENS)


class _Histogram:
    """Counts by bucket of one series; buckets are upper bounds, inclusive, as Prometheus has them."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = np.asarray(bounds)
        self.counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self.sum = 0.0

    def observe(self, values: npt.NDArray[np.float64]) -> None:
        self.counts += np.bincount(np.searchsorted(self.bounds, values), minlength=len(self.counts))
        self.sum += float(values.sum())


class Metrics(Collector):
    """The numbers behind the declarations, for one worker. Safe to use from every thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[Declaration, dict[tuple[str, ...], float]] = {
            metric: {} if metric.labels else {(): 0.0} for metric in CATALOGUE if metric.kind != "histogram"
        }
        self._histograms: dict[Declaration, dict[tuple[str, ...], _Histogram]] = {
            metric: {} if metric.labels else {(): _Histogram(metric.buckets)}
            for metric in CATALOGUE
            if metric.kind == "histogram"
        }

    def add(self, metric: Declaration, amount: float, *labels: str) -> None:
        """Raises a counter (or moves a gauge) by `amount`."""
        with self._lock:
            series = self._numbers[metric]
            series[labels] = series.get(labels, 0.0) + amount

    def set(self, metric: Declaration, value: float, *labels: str) -> None:
        """Sets a gauge."""
        with self._lock:
            self._numbers[metric][labels] = value

    def remove(self, metric: Declaration, *labels: str) -> None:
        """Forgets a series, such as that of a partition given away."""
        with self._lock:
            self._numbers[metric].pop(labels, None)

    def observe(self, metric: Declaration, values: Iterable[float], *labels: str) -> None:
        """Adds observations to a histogram."""
        array = np.fromiter(values, dtype=np.float64)
        if array.size:
            with self._lock:
                self._histograms[metric].setdefault(labels, _Histogram(metric.buckets)).observe(array)

    def value(self, metric: Declaration, *labels: str) -> float:
        """The number of one series, 0 where there is none; for a metric with labels and none given, the sum of all."""
        with self._lock:
            series = self._numbers[metric]
            return sum(series.values()) if metric.labels and not labels else series.get(labels, 0.0)

    def quantiles(self, metric: Declaration, shares: Sequence[float]) -> list[float]:
        """Estimated quantiles of a histogram without labels, as upper bounds of their buckets; 0 when empty."""
        with self._lock:
            cumulative = np.cumsum(self._histograms[metric][()].counts)
        bounds = (*metric.buckets, metric.buckets[-1])
        return [bounds[int(np.searchsorted(cumulative, share * cumulative[-1]))] if cumulative[-1] else 0.0
                for share in shares]  # fmt: skip

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client for each scrape."""
        for metric in CATALOGUE:
            name, labels = PREFIX + metric.name, metric.labels
            if metric.kind == "histogram":
                family = HistogramMetricFamily(name, metric.help, labels=labels)
                with self._lock:
                    histograms = [(key, h.counts.copy(), h.sum) for key, h in self._histograms[metric].items()]
                bounds = [*map(_bound, metric.buckets), "+Inf"]
                for key, counts, total in histograms:
                    buckets = list(zip(bounds, np.cumsum(counts).tolist(), strict=True))
                    family.add_metric(key, buckets, sum_value=total)
                yield family
            else:
                kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
                numbers = kind(name, metric.help, labels=labels)
                with self._lock:
                    series = list(self._numbers[metric].items())
                for key, value in series:
                    numbers.add_metric(key, value)
                yield numbers


def _bound(value: float) -> str:
    return repr(float(value))
