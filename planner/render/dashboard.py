"""The Grafana dashboard: what the router and the engines count, beside what the plan promises.

Metrics: the router's from its `/metrics` (the list is in its `metrics.py`), the engines' as vLLM 0.32
names them; `motley serve` exports the counters and gauges of these, without latency histograms.
"""

from collections.abc import Iterator
from typing import Any

from planner.render.fleet import RenderedFleet
from planner.render.text import json_text

_WINDOW = "$__rate_interval"
_PANELS_A_ROW = 2
_WIDTH, _HEIGHT = 12, 8

Query = tuple[str, str]
"""PromQL and legend."""


def dashboard_text(fleet: RenderedFleet) -> str:
    """Return the dashboard as JSON."""
    panels = [
        _panel(number, title, unit, queries)
        for number, (title, unit, queries) in enumerate(_contents(fleet))
    ]
    source = {"name": "datasource", "type": "datasource", "query": "prometheus"}
    return json_text(
        {
            "uid": f"motley-{fleet.plan_id}",
            "title": f"Motley fleet, plan {fleet.plan_id}",
            "tags": ["motley"],
            "schemaVersion": 39,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": [source]},
            "panels": panels,
        }
    )


def _contents(fleet: RenderedFleet) -> Iterator[tuple[str, str, list[Query]]]:
    picks = "motley_router_picks_total"
    yield (
        "Requests to each offer",
        "reqps",
        [(f"sum by (model, offer) (rate({picks}[{_WINDOW}]))", "{{model}} {{offer}}")],
    )
    yield (
        "Share away from the planned offer",
        "percentunit",
        [
            (
                f'sum by (model) (rate({picks}{{reason=~"other_offer|unplanned_offer"}}'
                f"[{_WINDOW}])) / sum by (model) (rate({picks}[{_WINDOW}]))",
                "{{model}}",
            )
        ],
    )
    yield (
        "Requests by status",
        "reqps",
        [
            (
                f"sum by (model, status) (rate(motley_router_requests_total[{_WINDOW}]))",
                "{{model}} {{status}}",
            )
        ],
    )
    yield (
        f"Healthy replicas of {sum(pool.row.replicas for pool in fleet.pools)}",
        "short",
        [("sum(motley_router_replica_healthy)", "healthy")],
    )
    yield "Outstanding requests", "short", [("motley_router_outstanding_requests", "{{replica}}")]
    yield "Time to first token", "s", list(_ttft(fleet))
    yield "Time per output token", "s", list(_tpot(fleet))
    yield (
        "Running and waiting",
        "short",
        [
            ("sum by (model_name) (vllm:num_requests_running)", "{{model_name}} running"),
            ("sum by (model_name) (vllm:num_requests_waiting)", "{{model_name}} waiting"),
        ],
    )
    yield (
        "Tokens",
        "short",
        [
            (f"sum(rate(vllm:prompt_tokens_total[{_WINDOW}]))", "prompt tokens/s"),
            (f"sum(rate(vllm:generation_tokens_total[{_WINDOW}]))", "generated tokens/s"),
        ],
    )
    yield (
        "Cache in use",
        "percentunit",
        [("max by (model_name) (vllm:kv_cache_usage_perc)", "{{model_name}}, fullest replica")],
    )


def _ttft(fleet: RenderedFleet) -> Iterator[Query]:
    for model in fleet.plan.models:
        slo = model.slo
        statistic = "p95" if slo is None else slo.ttft_statistic
        yield _statistic("vllm:time_to_first_token_seconds", model.name, statistic)
        if slo is not None and slo.ttft_seconds is not None:
            yield f"vector({slo.ttft_seconds:g})", f"{model.name} target {statistic}"


def _tpot(fleet: RenderedFleet) -> Iterator[Query]:
    for model in fleet.plan.models:
        slo = model.slo
        statistic = "p95" if slo is None else slo.tpot_statistic
        per_token = slo is not None and slo.tpot_per == "token"
        metric = "inter_token_latency" if per_token else "request_time_per_output_token"
        yield _statistic(f"vllm:{metric}_seconds", model.name, statistic)
        if slo is not None and slo.tpot_seconds is not None:
            yield f"vector({slo.tpot_seconds:g})", f"{model.name} target {statistic}"


def _statistic(metric: str, model: str, statistic: str) -> Query:
    which, legend = f'{{model_name="{model}"}}', f"{model} {statistic}"
    if statistic == "mean":
        rates = [f"sum(rate({metric}_{part}{which}[{_WINDOW}]))" for part in ("sum", "count")]
        return " / ".join(rates), legend
    buckets = f"sum by (le) (rate({metric}_bucket{which}[{_WINDOW}]))"
    return f"histogram_quantile(0.{statistic[1:]}, {buckets})", legend


def _panel(number: int, title: str, unit: str, queries: list[Query]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${datasource}"}
    row, column = divmod(number, _PANELS_A_ROW)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": column * _WIDTH, "y": row * _HEIGHT, "w": _WIDTH, "h": _HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": f"Q{index}", "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(queries)
        ],
    }
