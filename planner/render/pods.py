"""Containers of replicas and of the router, as Kubernetes wants them."""

from typing import Any

from planner.render.fleet import PORT, Pool
from planner.render.options import VLLM_IMAGES, RenderOptions
from planner.render.placement import resources

_STARTUP_MINUTES = 30
"""For a replica to download and load its weights."""


def image(pool: Pool, options: RenderOptions) -> str:
    """Return the container image of a replica."""
    if pool.engine == "motley":
        return options.motley_image
    return options.vllm_image or VLLM_IMAGES[pool.vendor]


def serving_command(pool: Pool) -> list[str]:
    """Return the words that start a replica inside a container."""
    return [*pool.command, "--host", "0.0.0.0", "--port", str(PORT)]


def replica_container(pool: Pool, options: RenderOptions) -> dict[str, Any]:
    """Return a replica's container.

    It gets requests while `/health` is well. Motley starts its engine again by itself, and `/health`
    is not well meanwhile: no reason to end the pod, which lives as long as it answers `/version`.
    vLLM does not, so there the same path says both.
    """
    words = serving_command(pool)
    liveness_path = "/version" if pool.engine == "motley" else "/health"
    return {
        "name": "replica",
        "image": image(pool, options),
        "command": words[:2],
        # Kubernetes would replace `$(NAME)` by a variable.
        "args": [word.replace("$(", "$$(") for word in words[2:]],
        "ports": [{"name": "http", "containerPort": PORT}],
        "env": [
            {
                "name": "HF_TOKEN",
                "valueFrom": {
                    "secretKeyRef": {"name": "hugging-face", "key": "token", "optional": True}
                },
            }
        ],
        "startupProbe": probe("/health", period_seconds=10, failures=6 * _STARTUP_MINUTES),
        "readinessProbe": probe("/health", period_seconds=5, failures=2),
        "livenessProbe": probe(liveness_path, period_seconds=10, failures=6),
        "resources": resources(pool),
        "volumeMounts": [
            {"name": "weights", "mountPath": "/root/.cache/huggingface"},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }


def replica_volumes() -> list[dict[str, Any]]:
    """Return the volumes a replica's container mounts; tensor parallelism needs shared memory."""
    return [
        {"name": "weights", "emptyDir": {}},
        {"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}},
    ]


def router_container(options: RenderOptions) -> dict[str, Any]:
    """Return the router's container.

    `/health` answers 503 while no replica is healthy: a reason to send it no requests, none to
    restart it, so it lives as long as `/metrics` answers.
    """
    return {
        "name": "router",
        "image": options.motley_image,
        "command": ["motley", "route"],
        "args": ["/etc/motley/router.yaml"],
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": probe("/metrics", period_seconds=2, failures=60),
        "readinessProbe": probe("/health", period_seconds=5, failures=2),
        "livenessProbe": probe("/metrics", period_seconds=10, failures=3),
        "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        "volumeMounts": [{"name": "configuration", "mountPath": "/etc/motley"}],
    }


def scrape_annotations() -> dict[str, str]:
    """Return what a Prometheus that discovers pods by annotation looks for."""
    return {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(PORT),
        "prometheus.io/path": "/metrics",
    }


def probe(path: str, *, period_seconds: int, failures: int) -> dict[str, Any]:
    """Return an HTTP probe of the port called `http`."""
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_seconds,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
