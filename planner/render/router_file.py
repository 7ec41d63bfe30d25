"""The file of `motley route`: the fleet's replicas and the planned weights, as they are in the plan.

The weights stand in the file itself, not behind a reference to the plan: the file then fits into one
ConfigMap, shows at a glance where requests go, and the router reads one document of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from planner.fleet.fleet_plan import PlannedWeights
from planner.render.fleet import PORT, RenderedFleet
from planner.render.text import yaml_text

Urls = Mapping[str, Sequence[str]]
"""Pool's name to the addresses of its replicas."""


def router_files(
    fleet: RenderedFleet,
    urls: Urls,
    *,
    host: str = "0.0.0.0",
    port: int = PORT,
    traffic_log: str | None = None,
) -> dict[str, str]:
    """Return `router.yaml`, and for each market whose loss the plan survives the file to load then.

    Args:
        fleet: What to route to.
        urls: Where its replicas answer.
        host: Address the router listens on; the default is for containers.
        port: Its port.
        traffic_log: File for its traffic log, relative to where it runs; None: it keeps none.
    """
    settings: dict[str, Any] = {"host": host, "port": port}
    if traffic_log is not None:
        settings["traffic_log"] = traffic_log
    files = {"router.yaml": _text(fleet, settings | {"models": _models(fleet, urls, {})})}
    for loss in fleet.plan.market_losses:
        lost = {pool.name for pool in fleet.pools if pool.row.market == loss.market}
        left = {name: where for name, where in urls.items() if name not in lost}
        rows: dict[str, list[PlannedWeights]] = {}
        for row in loss.weights:
            rows.setdefault(row.model, []).append(row)
        models = _models(fleet, left, rows)
        files[f"router-without-{loss.market}.yaml"] = _text(fleet, settings | {"models": models})
    return files


def _models(
    fleet: RenderedFleet, urls: Urls, rows: Mapping[str, Sequence[PlannedWeights]]
) -> list[dict[str, Any]]:
    return [
        {
            "name": model.name,
            "replicas": [
                {"url": url, "offer": pool.row.offer}
                for pool in fleet.pools_of(model.name)
                for url in urls.get(pool.name, ())
            ],
            "weights": [
                {"input_tokens_up_to": row.input_tokens_up_to, "weights": dict(row.weights)}
                for row in rows.get(model.name, fleet.weights_of(model.name))
            ],
        }
        for model in fleet.plan.models
    ]


def _text(fleet: RenderedFleet, content: dict[str, Any]) -> str:
    return yaml_text(content, comment=f"motley route FILE; plan {fleet.plan_id}")
