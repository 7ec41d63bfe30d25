"""Kubernetes: a StatefulSet for each pool, so that every replica has an address; the router over all.

The router picks replicas, so it must reach each by a name of its own: a StatefulSet behind a headless
Service gives `POOL-0.POOL`, where a Deployment's Service would pick a second time.
"""

import hashlib
from typing import Any

from planner.render.dashboard import dashboard_text
from planner.render.fleet import PORT, Pool, RenderedFleet
from planner.render.options import Files, RenderOptions
from planner.render.placement import (
    affinity,
    node_selector,
    pod_labels,
    region_remarks,
    tolerations,
)
from planner.render.pods import (
    replica_container,
    replica_volumes,
    router_container,
    scrape_annotations,
)
from planner.render.readme import dockerfile, readme
from planner.render.router_file import router_files
from planner.render.text import yaml_text

_HOW = """
    docker build -t {image} -f Dockerfile CLONE_OF_MOTLEY    # then push it where the cluster pulls
    kubectl create secret generic hugging-face --from-literal=token=...    # for gated models
    kubectl apply -f manifests/
    kubectl apply -f prometheus-operator/    # where the Prometheus operator runs
    kubectl port-forward service/motley-router 8000
"""

ROUTER_LABELS = {
    "app.kubernetes.io/name": "motley",
    "app.kubernetes.io/component": "router",
    "app.kubernetes.io/instance": "motley-router",
}


def render_kubernetes(fleet: RenderedFleet, options: RenderOptions) -> Files:
    """Return manifests, a ServiceMonitor, the dashboard and the notes."""
    urls = {
        pool.name: [
            f"http://{pool.name}-{number}.{pool.name}:{PORT}" for number in range(pool.row.replicas)
        ]
        for pool in fleet.pools
    }
    files = {
        f"manifests/{pool.name}.yaml": yaml_text(
            *pool_objects(fleet, pool, options), comment=f"{pool.row.model} on {pool.row.offer}"
        )
        for pool in fleet.pools
    }
    return files | {
        "manifests/motley-router.yaml": yaml_text(
            *router_objects(fleet, router_files(fleet, urls), options),
            comment="motley route, with the planned weights",
        ),
        "manifests/motley-dashboard.yaml": yaml_text(
            dashboard_object(fleet), comment="read by Grafana's sidecar"
        ),
        "prometheus-operator/service-monitor.yaml": yaml_text(
            service_monitor(fleet), comment="scrapes replicas and router"
        ),
        "grafana/motley.json": dashboard_text(fleet),
        "Dockerfile": dockerfile(),
        "README.md": readme(
            fleet,
            "kubernetes",
            _HOW.format(image=options.motley_image),
            *region_remarks(fleet.pools),
        ),
    }


def pool_objects(
    fleet: RenderedFleet, pool: Pool, options: RenderOptions
) -> tuple[dict[str, Any], ...]:
    """Return the headless Service, the StatefulSet and the disruption budget of a pool."""
    metadata = object_metadata(fleet, pool.name, pool.labels) | {
        "annotations": {
            "motley/offer": pool.row.offer,
            "motley/usd-per-hour": f"{pool.row.cost_usd_per_hour:g}",
        }
    }
    selector = {"app.kubernetes.io/instance": pool.name}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "clusterIP": "None",
            # The router asks each replica how it is, so names must resolve before it is ready.
            "publishNotReadyAddresses": True,
            "selector": selector,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }
    replicas = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": metadata,
        "spec": {
            "serviceName": pool.name,
            "replicas": pool.row.replicas,
            "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": pod_labels(pool), "annotations": scrape_annotations()},
                "spec": {
                    "nodeSelector": node_selector(pool),
                    "tolerations": tolerations(pool),
                    "affinity": affinity(pool),
                    "terminationGracePeriodSeconds": 60,
                    # Variables named after Services collide with vLLM's own, such as VLLM_PORT.
                    "enableServiceLinks": False,
                    "containers": [replica_container(pool, options)],
                    "volumes": replica_volumes(),
                },
            },
        },
    }
    return service, replicas, disruption_budget(fleet, pool.name, pool.labels)


def router_objects(
    fleet: RenderedFleet, files: dict[str, str], options: RenderOptions
) -> tuple[dict[str, Any], ...]:
    """Return the router's ConfigMap, Deployment and Service.

    It is a single pod, so a disruption budget would allow its loss or forbid to drain its node.
    """
    name = ROUTER_LABELS["app.kubernetes.io/instance"]
    metadata = object_metadata(fleet, name, ROUTER_LABELS)
    selector = {"app.kubernetes.io/instance": name}
    # Another file restarts the router: it reads its configuration once.
    digest = hashlib.sha256(files["router.yaml"].encode()).hexdigest()[:12]
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {
                    "labels": ROUTER_LABELS,
                    "annotations": {"motley/configuration": digest} | scrape_annotations(),
                },
                "spec": {
                    "terminationGracePeriodSeconds": 60,
                    "containers": [router_container(options)],
                    "volumes": [{"name": "configuration", "configMap": {"name": name}}],
                },
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {
            "selector": selector,
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }
    configuration = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files}
    return configuration, deployment, service


def disruption_budget(fleet: RenderedFleet, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return a budget that lets one pod of a pool go at a time."""
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": object_metadata(fleet, name, labels),
        "spec": {
            "maxUnavailable": 1,
            "selector": {"matchLabels": {"app.kubernetes.io/instance": name}},
        },
    }


def service_monitor(fleet: RenderedFleet) -> dict[str, Any]:
    """Return the Prometheus operator's object that scrapes every Service of the fleet."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": object_metadata(fleet, "motley", {"app.kubernetes.io/name": "motley"}),
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "motley"}},
            "targetLabels": ["motley/offer", "app.kubernetes.io/component"],
            "endpoints": [{"port": "http", "path": "/metrics", "interval": "15s"}],
        },
    }


def dashboard_object(fleet: RenderedFleet) -> dict[str, Any]:
    """Return the dashboard as the ConfigMap that Grafana's sidecar picks up."""
    labels = {"app.kubernetes.io/name": "motley", "grafana_dashboard": "1"}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": object_metadata(fleet, "motley-dashboard", labels),
        "data": {"motley.json": dashboard_text(fleet)},
    }


def object_metadata(fleet: RenderedFleet, name: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return an object's name and labels; pods lack the plan's, so that a new one restarts none."""
    return {"name": name, "labels": labels | {"motley/plan": fleet.plan_id}}
