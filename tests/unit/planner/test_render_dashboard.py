"""The dashboard asks only for metrics that exist."""

import json
import re

from fleet_plans import small_plan
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from planner.render.dashboard import dashboard_text
from planner.render.fleet import read_fleet
from planner.render.options import RenderOptions
from router.base import Decision
from router.config import ModelConfig
from router.fleet import Fleet
from router.input_size import InputSizes
from router.metrics import RouterMetrics

VLLM_METRICS = {
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:request_time_per_output_token_seconds_bucket",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:kv_cache_usage_perc",
}
"""Of those in vLLM 0.32's `v1/metrics/loggers.py`, the ones we show."""


def dashboard() -> dict:
    return json.loads(dashboard_text(read_fleet(small_plan(), RenderOptions())))


def router_metrics() -> set[str]:
    """Return the names of every sample the router exports."""
    fleet = Fleet([ModelConfig.model_validate({"name": "m", "replicas": [{"url": "http://a"}]})])
    metrics = RouterMetrics(fleet, InputSizes(["m"]))
    metrics.picked("m", Decision("http://a", "planned_weights", ()))
    metrics.ended("m", 200)
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {sample.name for family in families for sample in family.samples}


def test_every_metric_is_one_the_router_or_vllm_exports() -> None:
    """Names in queries are names in somebody's exposition."""
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    used = set(re.findall(r"(?:motley_router|vllm)[:_][a-z_]+", " ".join(queries)))
    assert {name for name in used if name.startswith("vllm")} == VLLM_METRICS
    assert {name for name in used if name.startswith("motley")} <= router_metrics()


def test_panels_do_not_overlap_and_have_a_source() -> None:
    """Each place of the grid is taken once; every panel asks the chosen Prometheus."""
    panels = dashboard()["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in panels)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_targets_of_the_plan_are_drawn() -> None:
    """The limit stands beside the statistic it holds for."""
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    assert "vector(0.5)" in queries
    assert "vector(0.05)" in queries
    assert any(query.startswith("histogram_quantile(0.95") for query in queries)
