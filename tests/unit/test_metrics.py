"""Every declared metric is exposed, named as Prometheus asks, and counts right."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from worker import metrics as m
from worker.metrics import CATALOGUE, PREFIX, Declaration, Metrics

BY_NAME = pytest.mark.parametrize("metric", CATALOGUE, ids=lambda metric: metric.name)
TYPES = {"counter", "gauge", "histogram", "summary", "info"}
BASE_UNITS = {"seconds", "bytes", "ratio", "celsius", "meters", "volts", "amperes", "joules", "grams"}
OTHER_UNITS = re.compile(
    r"_(ms|millis\w*|milliseconds|us|micros\w*|ns|nanos\w*|minutes|hours|days|kb|mb|gb|kib|mib|percent)(_|$)"
)


def scraped(metrics: Metrics) -> dict[str, Metric]:
    registry = CollectorRegistry()
    registry.register(metrics)
    return {family.name: family for family in parse(generate_latest(registry).decode())}


def series(metrics: Metrics, metric: Declaration) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    found = scraped(metrics)[PREFIX + metric.name]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found.samples}


def touch(metrics: Metrics, metric: Declaration) -> None:
    labels = [f"some {label}" for label in metric.labels]
    if metric.kind == "histogram":
        metrics.observe(metric, [1.5], *labels)
    elif metric.kind == "counter":
        metrics.add(metric, 2, *labels)
    else:
        metrics.set(metric, 2, *labels)


@BY_NAME
def test_it_is_exposed_as_declared_even_before_anything_happened(metric: Declaration) -> None:
    metrics = Metrics()
    family = scraped(metrics)[PREFIX + metric.name]
    assert (family.type, family.documentation) == (metric.kind, metric.help)
    assert bool(family.samples) == (not metric.labels), "without labels it starts at 0"
    touch(metrics, metric)
    samples = scraped(metrics)[PREFIX + metric.name].samples
    assert {sample.name for sample in samples} == set(metric.exposed_names)
    assert all(set(sample.labels) - {"le"} == set(metric.labels) for sample in samples)


@BY_NAME
def test_its_name_is_what_promtool_would_pass(metric: Declaration) -> None:
    words = metric.name.split("_")
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name) and "__" not in metric.name
    assert not TYPES.intersection(words[-1:]) or metric.name in ("model_info", "build_info")
    assert words[-1] not in ("total", "count", "sum", "bucket"), "the exposition adds those"
    assert not OTHER_UNITS.search(metric.name), "base units only"
    assert re.fullmatch(r"[A-Z0-9].*\.", metric.help) and "\n" not in metric.help
    assert all(re.fullmatch(r"[a-z][a-z_]*", label) and label not in ("le", "quantile") for label in metric.labels)
    if BASE_UNITS.intersection(words):
        assert words[-1] in BASE_UNITS, "the unit comes last"
    if metric.kind == "histogram":
        assert "partition" not in metric.labels, "a series for every partition and bucket would be too many"
        assert list(metric.buckets) == sorted(set(metric.buckets)) and metric.buckets[0] > 0


def test_no_two_metrics_share_a_name() -> None:
    names = [name for metric in CATALOGUE for name in metric.exposed_names]
    assert len(names) == len(set(names))


def test_every_declaration_is_used_somewhere() -> None:
    sources = "".join(path.read_text() for path in Path(m.__file__).parent.rglob("*.py") if path.name != "metrics.py")
    unused = [name for name, value in vars(m).items() if isinstance(value, Declaration) and name not in sources]
    assert unused == []


def test_openmetrics_scrapers_are_served_too() -> None:
    metrics = Metrics()
    for metric in CATALOGUE:
        touch(metrics, metric)
    registry = CollectorRegistry()
    registry.register(metrics)
    families = {family.name for family in parse_openmetrics(openmetrics(registry).decode())}
    assert families == {PREFIX + metric.name for metric in CATALOGUE}


@given(st.lists(st.sampled_from([*m.SECONDS, 0, 0.0009, 3600.1]) | st.floats(0, 1e5), max_size=30))
def test_buckets_hold_what_is_at_most_their_bound(values: list[float]) -> None:
    metrics = Metrics()
    for chunk in (values[:7], values[7:]):
        metrics.observe(m.RECORD_SECONDS, iter(chunk))
    name = PREFIX + m.RECORD_SECONDS.name
    found = series(metrics, m.RECORD_SECONDS)
    for bound in m.SECONDS:
        assert found[name + "_bucket", (("le", repr(float(bound))),)] == sum(value <= bound for value in values)
    assert found[name + "_bucket", (("le", "+Inf"),)] == found[name + "_count", ()] == len(values)
    assert found[name + "_sum", ()] == pytest.approx(sum(values))


def test_histograms_with_labels_are_apart() -> None:
    metrics = Metrics()
    metrics.observe(m.STAGE_SECONDS, [1.0, 2.0], "decode")
    metrics.observe(m.STAGE_SECONDS, [], "infer")
    found = series(metrics, m.STAGE_SECONDS)
    assert {labels for _, labels in found if len(labels) == 1} == {(("stage", "decode"),)}
    assert found[PREFIX + "stage_seconds_count", (("stage", "decode"),)] == 2


@given(st.lists(st.sampled_from(m.SECONDS), min_size=1, max_size=50), st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_the_bucket_that_holds_it(values: list[float], part: float) -> None:
    metrics = Metrics()
    assert metrics.quantiles(m.RECORD_SECONDS, [part]) == [0.0]
    metrics.observe(m.RECORD_SECONDS, values)
    (estimate,) = metrics.quantiles(m.RECORD_SECONDS, [part])
    assert sum(value <= estimate for value in values) >= part * len(values) - 1e-9
    assert sum(value < estimate for value in values) < part * len(values) + 1e-9


def test_a_quantile_past_the_last_bound_is_that_bound() -> None:
    metrics = Metrics()
    metrics.observe(m.RECORD_SECONDS, [1e9])
    assert metrics.quantiles(m.RECORD_SECONDS, [0.5]) == [3600]


def test_a_series_can_be_forgotten_and_its_neighbours_stay() -> None:
    metrics = Metrics()
    metrics.set(m.LAG, 5, "reviews", "0")
    metrics.set(m.LAG, 7, "reviews", "1")
    assert metrics.value(m.LAG) == 12
    metrics.remove(m.LAG, "reviews", "0")
    metrics.remove(m.LAG, "reviews", "0")
    assert (metrics.value(m.LAG, "reviews", "0"), metrics.value(m.LAG, "reviews", "1")) == (0, 7)
    assert len(series(metrics, m.LAG)) == 1


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    nasty = 'quote " backslash \\ newline \n end'
    metrics.add(m.CONSUMED, 1, nasty)
    assert series(metrics, m.CONSUMED) == {(PREFIX + "consumed_records_total", (("topic", nasty),)): 1.0}


@pytest.fixture
def hurried_threads() -> Iterator[None]:
    """Threads take turns so often that an unguarded read and write come apart."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hurried_threads")
def test_counters_only_rise_and_lose_nothing_under_threads() -> None:
    metrics, rounds, threads = Metrics(), 20_000, 4
    begin = threading.Barrier(threads + 1)

    def count(number: int) -> None:
        begin.wait(10)
        for _ in range(rounds):
            metrics.add(m.CONSUMED, 1, "shared")
        for _ in range(rounds // 20):
            metrics.add(m.COMMITS, 1, f"of thread {number}")
            metrics.observe(m.RECORD_SECONDS, [0.001])

    running = [threading.Thread(target=count, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    begin.wait(10)
    seen = [0.0]
    while any(thread.is_alive() for thread in running):
        found = series(metrics, m.RECORD_SECONDS)
        assert found[PREFIX + "record_seconds_count", ()] >= found[PREFIX + "record_seconds_bucket", (("le", "0.001"),)]
        seen.append(metrics.value(m.CONSUMED, "shared"))
        assert seen[-1] >= seen[-2]
    for thread in running:
        thread.join(10)
    total = threads * rounds
    assert metrics.value(m.CONSUMED) == total
    assert metrics.value(m.COMMITS) == total // 20
    assert series(metrics, m.RECORD_SECONDS)[PREFIX + "record_seconds_count", ()] == total // 20
