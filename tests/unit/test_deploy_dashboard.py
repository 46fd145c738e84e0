"""The dashboard is fresh, well-formed and asks only for what the worker declares."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from worker.metrics import CATALOGUE

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "overview.json"
PAGE = json.loads(DASHBOARD.read_text())
TARGETS = [target for panel in PAGE["panels"] for target in panel["targets"]]

# Prometheus adds job and instance to everything, and one metric of its own.
TARGET_LABELS = {"job", "instance"}
LABELS = {"up": TARGET_LABELS} | {
    name: {*metric.labels, *TARGET_LABELS, *(["le"] if name.endswith("_bucket") else [])}
    for metric in CATALOGUE
    for name in metric.exposed_names
}
CUMULATIVE = {name for metric in CATALOGUE if metric.kind != "gauge" for name in metric.exposed_names}


def problems(query: str) -> list[str]:
    """What is wrong with a query: undeclared names and labels, a counter read raw, a rate of a gauge."""
    found: list[str] = []

    def visit(node: promql.Expr, rated: bool) -> list[promql.VectorSelector]:
        """Selectors below the node."""
        match node:
            case promql.VectorSelector() | promql.MatrixSelector():
                selector = node if isinstance(node, promql.VectorSelector) else node.vector_selector
                if selector.name not in LABELS:
                    found.append(f"no metric {selector.name}")
                elif rated != (selector.name in CUMULATIVE):
                    found.append(f"{selector.name} wants {'no ' if rated else 'a '}rate")
                check([matcher.name for matcher in selector.matchers.matchers], [selector])
                return [selector]
            case promql.AggregateExpr():
                below = visit(node.expr, rated)
                check(node.modifier.labels if node.modifier else [], below)
                return below
            case promql.Call():
                inside = rated or node.func.name in ("rate", "increase")
                return [selector for argument in node.args for selector in visit(argument, inside)]
            case promql.BinaryExpr():
                return visit(node.lhs, rated) + visit(node.rhs, rated)
            case promql.ParenExpr() | promql.UnaryExpr():
                return visit(node.expr, rated)
            case promql.NumberLiteral() | promql.StringLiteral():
                return []
        raise AssertionError(f"teach this test about {type(node).__name__}")

    def check(labels: list[str], selectors: list[promql.VectorSelector]) -> None:
        for selector in selectors:
            undeclared = set(labels) - LABELS.get(selector.name or "", set(labels))
            found.extend(f"{selector.name} has no label {label}" for label in sorted(undeclared))

    visit(promql.parse(re.sub(r"\$__(rate_interval|range)", "1m", query)), rated=False)
    return found


def test_is_fresh() -> None:
    overview = runpy.run_path(str(DEPLOY / "grafana" / "overview.py"))
    assert DASHBOARD.read_text() == overview["render"](), "stale: run make generate"


def test_grafanas_own_model_knows_every_key() -> None:
    plugins.register_default_plugins()

    def through_the_model(page: dict[str, Any]) -> Any:
        return json.loads(json.dumps(Dashboard.from_json(page), cls=JSONEncoder))

    assert through_the_model(PAGE) == PAGE
    misspelt = json.loads(json.dumps(PAGE).replace('"legendFormat"', '"legend_format"'))
    assert through_the_model(misspelt) != misspelt


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"])
def test_query_uses_only_what_is_declared(target: dict[str, str]) -> None:
    assert problems(target["expr"]) == []
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \((.*?)\)", target["expr"]))))
    assert set(re.findall(r"{{(.*?)}}", target.get("legendFormat", ""))) <= grouped


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("sum(review_worker_redy)", "no metric review_worker_redy"),
        ("sum by (partition) (rate(review_worker_labelled_records_total[1m]))", "has no label partition"),
        ('review_worker_lag_records{reason="x"}', "has no label reason"),
        ("histogram_quantile(0.5, sum by (stage) (rate(review_worker_record_seconds_bucket[1m])))", "no label stage"),
        ("sum(review_worker_labelled_records_total)", "wants a rate"),
        ("1 + rate(review_worker_ready[1m])", "wants no rate"),
    ],
)
def test_the_check_itself_finds(query: str, problem: str) -> None:
    assert [found for found in problems(query) if problem in found]


def test_a_query_that_does_not_parse_is_found() -> None:
    with pytest.raises(ValueError):
        problems("sum by (label (review_worker_ready)")


def test_job_and_scrape_interval_agree_with_prometheus() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert {job for target in TARGETS for job in re.findall(r'job="(.*?)"', target["expr"])} == {
        job["job_name"] for job in config["scrape_configs"]
    }
    source = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]
