"""SkyPilot: one service an offer, on the planned market and region, and our router over their endpoints.

SkyServe balances inside an offer; shares between offers and per input size are the router's.
"""

import shlex
from typing import Any

from planner.render.dashboard import dashboard_text
from planner.render.fleet import PORT, Pool, RenderedFleet
from planner.render.options import Files, RenderOptions
from planner.render.placement import require_device
from planner.render.pods import image, serving_command
from planner.render.readme import dockerfile, readme
from planner.render.router_file import router_files
from planner.render.shares import full_rate
from planner.render.text import yaml_text

_CLOUDS = ("aws", "gcp", "azure", "lambda", "runpod")
"""Regions of the price list that are or start so are that cloud's."""

_HOW = """
    export HF_TOKEN=...    # for gated models; up.sh hands it to the services
    sh up.sh           # starts every service; SKYPILOT_DISABLE_USAGE_COLLECTION=1 keeps it to itself
    sh endpoints.sh    # writes router.live.yaml once they have endpoints
    motley route router.live.yaml
"""

_REMARKS = (
    "The router sees one endpoint an offer; inside it SkyServe picks the replica",
    "The router's `/metrics` can be scraped where it runs; the replicas' are behind SkyServe's balancer",
    "Replica counts are fixed as planned; target_qps_per_replica takes effect once max_replicas is "
    "raised",
)


def render_skypilot(fleet: RenderedFleet, options: RenderOptions) -> Files:
    """Return a service for each pool, the router's file, and a script that joins them."""
    urls = {pool.name: [_placeholder(pool)] for pool in fleet.pools}
    services = {
        f"services/{pool.name}.yaml": yaml_text(
            service(fleet, pool, options),
            comment=f"sky serve up -n {pool.name} services/{pool.name}.yaml",
        )
        for pool in fleet.pools
    }
    return (
        services
        | router_files(fleet, urls, host="127.0.0.1")
        | {
            "up.sh": _start_script(fleet),
            "endpoints.sh": _endpoints_script(fleet),
            "grafana/motley.json": dashboard_text(fleet),
            "Dockerfile": dockerfile(),
            "README.md": readme(fleet, "skypilot", _HOW, *_REMARKS),
        }
    )


def service(fleet: RenderedFleet, pool: Pool, options: RenderOptions) -> dict[str, Any]:
    """Return one SkyServe service: a task with a `service` section."""
    policy: dict[str, Any] = {
        "min_replicas": pool.row.replicas,
        "max_replicas": pool.row.replicas,
    }
    rate = full_rate(fleet, pool)
    if rate is not None:
        policy["target_qps_per_replica"] = float(f"{rate:.6g}")
    return {
        "name": pool.name,
        "service": {
            "readiness_probe": {
                "path": "/health",
                "initial_delay_seconds": 1800,
                "timeout_seconds": 10,
            },
            "replica_policy": policy,
            "ports": PORT,
        },
        "resources": _resources(pool, options),
        "envs": {"HF_TOKEN": ""},
        "run": f"exec {shlex.join(serving_command(pool))}\n",
    }


def _resources(pool: Pool, options: RenderOptions) -> dict[str, Any]:
    device = require_device(pool)
    cloud, _, region = (pool.row.region or "").partition("-")
    content: dict[str, Any] = {}
    if cloud in _CLOUDS:
        content["infra"] = f"{cloud}/{region}" if region else cloud
    if device.vendor == "cpu":
        gibibytes = int(device.spec.memory_bytes * pool.row.memory_fraction) >> 30
        content |= {"cpus": f"{device.cores or 1}+", "memory": f"{gibibytes}+"}
    else:
        content["accelerators"] = {device.skypilot_name: pool.row.devices_per_replica}
    return content | {
        "use_spot": pool.is_spot,
        "image_id": f"docker:{image(pool, options)}",
        "ports": PORT,
    }


def _placeholder(pool: Pool) -> str:
    return f"http://{pool.name}.invalid"


def _start_script(fleet: RenderedFleet) -> str:
    names = [pool.name for pool in fleet.pools]
    return "\n".join(
        [
            "#!/bin/sh",
            f"# Starts the services of plan {fleet.plan_id}.",
            "set -eu",
            'cd "$(dirname "$0")"',
            *(
                f"sky serve up --yes ${{HF_TOKEN:+--env HF_TOKEN}} -n {name} services/{name}.yaml"
                for name in names
            ),
            "",
        ]
    )


def _endpoints_script(fleet: RenderedFleet) -> str:
    lines = [
        "#!/bin/sh",
        "# Writes router.live.yaml: the router's file with the services' endpoints.",
        "set -eu",
        'cd "$(dirname "$0")"',
        "cp router.yaml edited",
    ]
    for pool in fleet.pools:
        lines += [
            f"endpoint=$(sky serve status --endpoint {pool.name})",
            # SkyPilot prints a dash while there is none; some versions print the scheme, some not.
            f'[ "$endpoint" != - ] || {{ echo "{pool.name} has no endpoint yet" >&2; exit 1; }}',
            f'sed "s|{_placeholder(pool)}|http://${{endpoint#http://}}|" edited > edited.next',
            "mv edited.next edited",
        ]
    return "\n".join([*lines, "mv edited router.live.yaml", ""])
