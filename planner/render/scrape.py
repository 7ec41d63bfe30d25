"""Prometheus's own configuration, where no cluster discovers what to scrape."""

from collections.abc import Mapping, Sequence

from planner.render.fleet import RenderedFleet
from planner.render.text import yaml_text


def prometheus_text(
    fleet: RenderedFleet, replicas: Mapping[str, Sequence[str]], *, router: str
) -> str:
    """Return `prometheus.yml`.

    Args:
        fleet: What is scraped; each replica's metrics get its offer as a label.
        replicas: Pool's name to the `HOST:PORT` of its replicas.
        router: The router's.
    """
    groups = [
        {"targets": list(replicas[pool.name]), "labels": {"motley_offer": pool.row.offer}}
        for pool in fleet.pools
    ]
    content = {
        "global": {"scrape_interval": "15s"},
        "scrape_configs": [
            {"job_name": "replicas", "static_configs": groups},
            {"job_name": "router", "static_configs": [{"targets": [router]}]},
        ],
    }
    return yaml_text(content, comment="scrapes replicas and router")
