"""Docker Compose: one service a replica, the router, Prometheus and Grafana, on one machine.

GPUs are given out in the plan's order, by index: replica after replica takes the next ones.
"""

from collections.abc import Iterator
from typing import Any

from planner.render.dashboard import dashboard_text
from planner.render.fleet import PORT, Pool, RenderedFleet
from planner.render.options import Files, RenderOptions
from planner.render.placement import require_device
from planner.render.pods import image, serving_command
from planner.render.readme import dockerfile, readme
from planner.render.router_file import router_files
from planner.render.scrape import prometheus_text
from planner.render.text import yaml_text

_HOW = """
    docker build -t {image} -f Dockerfile CLONE_OF_MOTLEY
    HF_TOKEN=... docker compose up -d
    curl http://127.0.0.1:8000/v1/models    # Grafana: http://127.0.0.1:3000, Prometheus: 9090
"""

_REMARKS = (
    "All replicas run on one machine and take its GPUs in the order of the file, by index: check "
    "that the indices are the planned devices (`nvidia-smi -L`)",
)

_ASK_HEALTH = (
    "import urllib.request as r; r.urlopen('http://127.0.0.1:{port}{path}', timeout=5).close()"
)


def render_compose(fleet: RenderedFleet, options: RenderOptions) -> Files:
    """Return the compose file and what its containers mount."""
    names = {pool.name: _replica_names(pool) for pool in fleet.pools}
    urls = {pool: [f"http://{name}:{PORT}" for name in each] for pool, each in names.items()}
    replicas = dict(_replicas(fleet, options))
    content = {
        "name": f"motley-{fleet.plan_id}",
        "services": replicas | _monitored(list(replicas), options),
        "volumes": {"weights": {}},
    }
    return router_files(fleet, urls) | {
        "compose.yaml": yaml_text(content, comment=f"plan {fleet.plan_id}; docker compose up"),
        "prometheus.yml": prometheus_text(
            fleet,
            {pool: [f"{name}:{PORT}" for name in each] for pool, each in names.items()},
            router=f"router:{PORT}",
        ),
        "grafana/datasources/motley.yaml": yaml_text(_datasource(), comment="Grafana's source"),
        "grafana/providers/motley.yaml": yaml_text(_provider(), comment="Grafana's dashboards"),
        "grafana/motley.json": dashboard_text(fleet),
        "Dockerfile": dockerfile(),
        "README.md": readme(fleet, "compose", _HOW.format(image=options.motley_image), *_REMARKS),
    }


def _replica_names(pool: Pool) -> list[str]:
    return [f"{pool.name}-{number}" for number in range(pool.row.replicas)]


def _replicas(fleet: RenderedFleet, options: RenderOptions) -> Iterator[tuple[str, dict[str, Any]]]:
    next_gpu = 0
    for pool in fleet.pools:
        is_gpu = require_device(pool).vendor != "cpu"
        for name in _replica_names(pool):
            yield name, _replica(fleet, pool, options, next_gpu)
            next_gpu += pool.row.devices_per_replica if is_gpu else 0


def _replica(
    fleet: RenderedFleet, pool: Pool, options: RenderOptions, first_gpu: int
) -> dict[str, Any]:
    gpus = [str(first_gpu + number) for number in range(pool.row.devices_per_replica)]
    content = {
        "image": image(pool, options),
        "entrypoint": list(pool.command[:2]),
        # Compose would replace a single dollar and what follows it.
        "command": [word.replace("$", "$$") for word in serving_command(pool)[2:]],
        "environment": {"HF_TOKEN": "${HF_TOKEN:-}"},
        "volumes": ["weights:/root/.cache/huggingface"],
        "shm_size": "16gb",
        "healthcheck": _healthcheck("/health", start_seconds=1800),
        "restart": "unless-stopped",
        "labels": {"motley.plan": fleet.plan_id, "motley.offer": pool.row.offer},
    }
    if pool.vendor == "nvidia":
        device = {"driver": "nvidia", "device_ids": gpus, "capabilities": ["gpu"]}
        content["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    elif pool.vendor == "amd":
        content["devices"] = ["/dev/kfd", "/dev/dri"]
        content["group_add"] = ["video"]
        content["environment"] = {
            "HF_TOKEN": "${HF_TOKEN:-}",
            "HIP_VISIBLE_DEVICES": ",".join(gpus),
        }
    return content


def _monitored(replicas: list[str], options: RenderOptions) -> dict[str, Any]:
    """Return the router, Prometheus and Grafana."""
    return {
        "router": {
            "image": options.motley_image,
            "entrypoint": ["motley", "route"],
            "command": ["/etc/motley/router.yaml"],
            "volumes": ["./router.yaml:/etc/motley/router.yaml:ro"],
            "ports": [f"127.0.0.1:{PORT}:{PORT}"],
            "depends_on": replicas,
            "healthcheck": _healthcheck("/metrics", start_seconds=60),
            "restart": "unless-stopped",
        },
        "prometheus": {
            "image": "prom/prometheus:v3.5.0",
            "volumes": ["./prometheus.yml:/etc/prometheus/prometheus.yml:ro"],
            "ports": ["127.0.0.1:9090:9090"],
            "restart": "unless-stopped",
        },
        "grafana": {
            "image": "grafana/grafana:12.1.0",
            "volumes": [
                "./grafana/datasources:/etc/grafana/provisioning/datasources:ro",
                "./grafana/providers:/etc/grafana/provisioning/dashboards:ro",
                "./grafana/motley.json:/var/lib/grafana/dashboards/motley.json:ro",
            ],
            "ports": ["127.0.0.1:3000:3000"],
            "restart": "unless-stopped",
        },
    }


def _healthcheck(path: str, *, start_seconds: int) -> dict[str, Any]:
    program = _ASK_HEALTH.format(port=PORT, path=path)
    return {
        "test": ["CMD", "python3", "-c", program],
        "interval": "10s",
        "timeout": "10s",
        "retries": 6,
        "start_period": f"{start_seconds}s",
    }


def _datasource() -> dict[str, Any]:
    source = {
        "name": "Prometheus",
        "type": "prometheus",
        "url": "http://prometheus:9090",
        "isDefault": True,
    }
    return {"apiVersion": 1, "datasources": [source]}


def _provider() -> dict[str, Any]:
    provider = {
        "name": "motley",
        "type": "file",
        "options": {"path": "/var/lib/grafana/dashboards"},
    }
    return {"apiVersion": 1, "providers": [provider]}
