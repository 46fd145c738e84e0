"""The overview dashboard as code: writes dashboards/overview.json (`make generate`).

Queries are made from the declared metrics, so a renamed metric cannot leave a silent panel behind. Knows nothing of
where Prometheus is: that is the provisioned datasource's matter.
"""

import json
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import BigValueGraphMode, LegendPlacement, TooltipDisplayMode
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef

from worker import metrics
from worker.metrics import Declaration

OUTPUT = Path(__file__).parent / "dashboards" / "overview.json"
JOB = "review-worker"  # job_name in prometheus.yml
QUANTILES = (0.5, 0.95, 0.99)

Query = tuple[str, str]  # legend, PromQL


def series(metric: Declaration) -> str:
    """The name a query uses: of a histogram, its buckets."""
    return metric.exposed_names[0]


def rate(metric: Declaration, *by: str) -> str:
    """What a counter gains in a second, over all replicas or for each value of the labels."""
    total = f"sum by ({', '.join(by)})" if by else "sum"
    return f"{total} (rate({series(metric)}[$__rate_interval]))"


def percentiles(metric: Declaration) -> list[Query]:
    """Over all replicas, as fine as the declared buckets are."""
    buckets = rate(metric, "le")
    return [(f"p{share * 100:g}", f"histogram_quantile({share}, {buckets})") for share in QUANTILES]


# While a partition moves, its old and its new owner may both report it: the larger counts, once.
LAG = f"max by (topic, partition) ({series(metrics.LAG)})"


def panels() -> list[stat.Panel | timeseries.Panel]:
    ready = f"sum({series(metrics.READY)})"
    return [
        number("Replicas ready", "short", ready).no_value("0"),
        number("Labelled", "suffix:/s", rate(metrics.LABELLED)).no_value("0"),
        number("Lag", "short", f"sum({LAG})"),  # with nobody to report it, 0 would be a lie
        number("Dead letters", "short", f"sum(increase({series(metrics.REJECTED)}[$__range]))").no_value("0"),
        chart(
            "Throughput",
            "Results that the broker has acknowledged, by label.",
            "suffix:/s",
            ("{{label}}", rate(metrics.LABELLED, "label")),
        ),
        chart(
            "Replicas",
            "Scraped: Prometheus finds the replica and it answers. Ready: warm and a member of the group.",
            "short",
            ("scraped", f'sum(up{{job="{JOB}"}})'),
            ("ready", ready),
        ),
        chart("Poll to acknowledgement", metrics.RECORD_SECONDS.help, "s", *percentiles(metrics.RECORD_SECONDS)),
        chart("Age of a record when labelled", metrics.RECORD_AGE.help, "s", *percentiles(metrics.RECORD_AGE)),
        chart(
            "Lag",
            "Records not yet committed. Workers report it: with none running there is no line, not a line at 0.",
            "short",
            ("{{topic}}", f"sum by (topic) ({LAG})"),
        ),
        chart(
            "Lag by partition",
            "One line far above the others: a stuck partition or a hot key.",
            "short",
            ("{{topic}} {{partition}}", LAG),
        ),
        chart("Dead letters", metrics.REJECTED.help, "suffix:/s", ("{{reason}}", rate(metrics.REJECTED, "reason"))),
        chart(
            "Device",
            "Share of the time that each replica's device computes, or stands idle although tokens are queued.",
            "percentunit",
            ("busy {{instance}}", rate(metrics.DEVICE_BUSY, "instance")),
            ("idle with work {{instance}}", rate(metrics.DEVICE_STARVED, "instance")),
        ),
        chart(
            "In flight",
            "Records read and not yet acknowledged; tokens waiting for the device.",
            "short",
            ("records", f"sum({series(metrics.IN_FLIGHT)})"),
            ("tokens queued", f"sum({series(metrics.QUEUED_TOKENS)})"),
        ),
        chart(
            "Replicas that wait",
            "Blocked: a broker does not answer. Paused: enough is in flight, the device or the broker sets the pace.",
            "short",
            ("blocked", rate(metrics.BLOCKED)),
            ("paused", rate(metrics.PAUSED)),
        ),
    ]


def number(title: str, unit: str, query: str) -> stat.Panel:
    panel = stat.Panel().title(title).unit(unit).graph_mode(BigValueGraphMode.NONE).height(4).span(6)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    return panel.with_target(prometheus.Dataquery().ref_id("A").expr(query).instant())


def chart(title: str, description: str, unit: str, *queries: Query) -> timeseries.Panel:
    panel = timeseries.Panel().title(title).description(description).unit(unit).min(0).height(8).span(12)
    panel.legend(common.VizLegendOptions().show_legend(True).placement(LegendPlacement.BOTTOM))
    panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI)).fill_opacity(10)
    for index, (legend, query) in enumerate(queries):
        panel.with_target(
            prometheus.Dataquery().ref_id(chr(ord("A") + index)).expr(query).legend_format(legend).range()
        )
    return panel


def render() -> str:
    """The dashboard as Grafana reads it."""
    page = (
        dashboard.Dashboard("Review workers")
        .uid("review-workers")
        .description("Generated by deploy/grafana/overview.py.")
        .time("now-30m", "now")
        .refresh("10s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
    )
    source = DataSourceRef(type_val="prometheus", uid="${datasource}")
    for identity, panel in enumerate(panels(), 1):
        page.with_panel(panel.id(identity).datasource(source))
    return json.dumps(page.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    OUTPUT.write_text(render())
