"""llm-d: values for its model-service chart, its autoscaler's objects, pools and routes; our router.

Sources: llm-d-modelservice's `values.yaml` (decode pods only, no sidecar: nothing is disaggregated),
the workload-variant-autoscaler's `llmd.ai/v1alpha1` (cost and model of one Deployment; its accelerator
is a label), Gateway API `HTTPRoute` v1 and the inference extension's `InferencePool` v1.

A route splits requests by one set of weights for all input sizes. What is rendered there is the share
of each offer in all of a model's requests; the weights per input size are in our router's file.
"""

from collections.abc import Iterator
from typing import Any

from planner.render.dashboard import dashboard_text
from planner.render.fleet import PORT, Pool, RenderedFleet, dns_label
from planner.render.kubernetes import (
    disruption_budget,
    object_metadata,
    router_objects,
    service_monitor,
)
from planner.render.options import Files, RenderOptions
from planner.render.placement import (
    affinity,
    node_selector,
    pod_labels,
    region_remarks,
    require_device,
    tolerations,
)
from planner.render.pods import replica_container, replica_volumes, scrape_annotations
from planner.render.readme import dockerfile, readme
from planner.render.router_file import router_files
from planner.render.shares import offer_weights
from planner.render.text import yaml_text

GATEWAY = "inference-gateway"
"""The Gateway the routes attach to, by the name of llm-d's guides."""

_HOW = """
    helm repo add llm-d-modelservice https://llm-d-incubation.github.io/llm-d-modelservice/
    kubectl create secret generic hugging-face --from-literal=token=...    # for gated models
    {installs}
    kubectl apply -f manifests/
    kubectl apply -f gateway/      # weights for all sizes alike, by Gateway and endpoint pickers
    kubectl apply -f autoscaler/   # where the workload-variant-autoscaler runs
    kubectl apply -f prometheus-operator/
"""

_REMARKS = (
    "The planned weights per input size need our router (`manifests/motley-router.yaml`); an "
    "HTTPRoute knows no sizes, and `gateway/` splits each model's requests as they divide over all "
    "sizes",
    "The router sees one Service an offer here, because the chart makes Deployments; inside an offer "
    "Kubernetes picks the replica",
    "Each InferencePool needs an endpoint picker, a Service called POOL-epp on port 9002, as the "
    "inference extension's chart installs it; until then the gateway picks replicas itself",
    "The autoscaler changes replica counts that the plan has proven; leave `autoscaler/` out to keep "
    "them",
)

_MODEL_HEADER = "X-Gateway-Model-Name"
"""Header that the inference extension's body-based routing sets from the request's model."""


def render_llm_d(fleet: RenderedFleet, options: RenderOptions) -> Files:
    """Return Helm values, autoscaler objects, pools, routes, the router and the notes."""
    urls = {pool.name: [f"http://{pool.name}:{PORT}"] for pool in fleet.pools}
    installs = "\n    ".join(
        f"helm install {pool.name} llm-d-modelservice/llm-d-modelservice -f values/{pool.name}.yaml"
        for pool in fleet.pools
    )
    files = {
        f"values/{pool.name}.yaml": yaml_text(
            helm_values(fleet, pool, options), comment=f"{pool.row.model} on {pool.row.offer}"
        )
        for pool in fleet.pools
    }
    services = [_service(fleet, pool) for pool in fleet.pools]
    budgets = [disruption_budget(fleet, pool.name, pool.labels) for pool in fleet.pools]
    routed = router_objects(fleet, router_files(fleet, urls), options)
    return files | {
        "manifests/pools.yaml": yaml_text(
            *services, *budgets, comment="one Service and one disruption budget an offer"
        ),
        "manifests/motley-router.yaml": yaml_text(
            *routed, comment="motley route, with the planned weights per input size"
        ),
        "gateway/inference-pools.yaml": yaml_text(
            *[inference_pool(fleet, pool) for pool in fleet.pools], comment="one pool an offer"
        ),
        "gateway/http-routes.yaml": yaml_text(
            *_routes(fleet),
            comment="weights of all sizes together",
        ),
        "autoscaler/variants.yaml": yaml_text(
            *[variant(fleet, pool) for pool in fleet.pools], comment="variantCost is USD an hour"
        ),
        "prometheus-operator/service-monitor.yaml": yaml_text(
            service_monitor(fleet), comment="scrapes replicas and router"
        ),
        "grafana/motley.json": dashboard_text(fleet),
        "Dockerfile": dockerfile(),
        "README.md": readme(
            fleet,
            "llm-d",
            _HOW.format(installs=installs),
            *_REMARKS,
            *region_remarks(fleet.pools),
        ),
    }


def helm_values(fleet: RenderedFleet, pool: Pool, options: RenderOptions) -> dict[str, Any]:
    """Return the values of one release of the model-service chart."""
    container = replica_container(pool, options)
    # The chart mounts its cache of weights itself.
    container["volumeMounts"] = container["volumeMounts"][1:]
    return {
        "fullnameOverride": pool.name,
        "modelArtifacts": {
            "name": pool.row.model,
            "uri": f"hf://{pool.model.source}",
            "size": "1Ti",  # a limit, not a reservation
            "labels": pod_labels(pool) | {"llm-d.ai/inference-serving": "true"},
        },
        "routing": {"servicePort": PORT, "proxy": {"enabled": False, "targetPort": PORT}},
        "accelerator": {"type": require_device(pool).vendor},
        "decode": {
            "create": True,
            "replicas": pool.row.replicas,
            # The chart asks for this many GPUs; how the engine uses them is in its own arguments.
            "parallelism": {"tensor": pool.row.devices_per_replica, "data": 1},
            "annotations": {"motley/offer": pool.row.offer, "motley/plan": fleet.plan_id},
            "podAnnotations": scrape_annotations(),
            "nodeSelector": node_selector(pool),
            "enableServiceLinks": False,
            "extraConfig": {"tolerations": tolerations(pool), "affinity": affinity(pool)},
            "containers": [
                container | {"name": "vllm", "modelCommand": "custom", "mountModelVolume": True}
            ],
            "volumes": replica_volumes()[1:],
        },
        "prefill": {"create": False},
    }


def variant(fleet: RenderedFleet, pool: Pool) -> dict[str, Any]:
    """Return the autoscaler's object: what one more replica of this offer costs."""
    labels = {"inference.optimization/acceleratorName": require_device(pool).spec.name}
    return {
        "apiVersion": "llmd.ai/v1alpha1",
        "kind": "VariantAutoscaling",
        "metadata": object_metadata(fleet, f"{pool.name}-decode", pool.labels | labels),
        "spec": {
            "scaleTargetRef": {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": f"{pool.name}-decode",
            },
            "modelID": pool.row.model,
            "variantCost": f"{pool.row.price_usd_per_hour:.6f}",
        },
    }


def inference_pool(fleet: RenderedFleet, pool: Pool) -> dict[str, Any]:
    """Return the pool of one offer's pods, inside which an endpoint picker chooses."""
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": object_metadata(fleet, pool.name, pool.labels),
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/instance": pool.name}},
            "targetPorts": [{"number": PORT}],
            "endpointPickerRef": {
                "name": f"{pool.name}-epp",
                "port": {"number": 9002},
                "failureMode": "FailOpen",
            },
        },
    }


def http_route(fleet: RenderedFleet, model: str, name: str) -> dict[str, Any]:
    """Return the route of one model over the pools of its offers, by their share of all requests."""
    weights = offer_weights(fleet, model)
    backends = [
        {
            "group": "inference.networking.k8s.io",
            "kind": "InferencePool",
            "name": pool.name,
            "weight": weights.get(pool.row.offer, 0),
        }
        for pool in fleet.pools_of(model)
    ]
    rule: dict[str, Any] = {"backendRefs": backends}
    if len(fleet.plan.models) > 1:
        header = {"type": "Exact", "name": _MODEL_HEADER, "value": model}
        rule = {"matches": [{"headers": [header]}]} | rule
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": object_metadata(fleet, name, {"app.kubernetes.io/name": "motley"}),
        "spec": {"parentRefs": [{"name": GATEWAY}], "rules": [rule]},
    }


def _routes(fleet: RenderedFleet) -> Iterator[dict[str, Any]]:
    names: set[str] = set()
    for model in fleet.plan.models:
        name = dns_label(model.name, taken=names)
        names.add(name)
        yield http_route(fleet, model.name, name)


def _service(fleet: RenderedFleet, pool: Pool) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": object_metadata(fleet, pool.name, pool.labels),
        "spec": {
            "selector": {"app.kubernetes.io/instance": pool.name},
            "ports": [{"name": "http", "port": PORT, "targetPort": "http"}],
        },
    }
