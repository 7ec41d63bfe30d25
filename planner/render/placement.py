"""Where pods may run: device, market, and what they ask of a node.

Spot conventions: GKE labels and taints nodes `cloud.google.com/gke-spot=true`, AKS
`kubernetes.azure.com/scalesetpriority=spot`; EKS labels them `eks.amazonaws.com/capacityType=SPOT`,
Karpenter `karpenter.sh/capacity-type=spot`, both without a taint. All four are rendered, so the same
files run on each cloud; replicas planned on demand keep away from nodes of all four.
"""

from collections.abc import Sequence
from typing import Any

from planner.errors import RenderError
from planner.render.devices import Device
from planner.render.fleet import Pool

_SPOT_LABELS = {
    "cloud.google.com/gke-spot": "true",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
}

_SPOT_TAINTS = ("cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority")

_HOST_LABEL = {"motley/whole-host": "true"}
"""Label of pods that share their node with no other of its kind: replicas on CPU hosts."""


def require_device(pool: Pool) -> Device:
    """Return the pool's device.

    Raises:
        RenderError: If its offer names none.
    """
    if pool.device is None:
        raise RenderError(
            f"{pool.row.model} on {pool.row.offer}: the offer names no gpu, so no machine can be "
            "asked for; name it in the offer and plan again, or take --target local"
        )
    return pool.device


def pod_labels(pool: Pool) -> dict[str, str]:
    """Return the labels of a pool's pods."""
    is_host = require_device(pool).vendor == "cpu"
    return pool.labels | (_HOST_LABEL if is_host else {})


def node_selector(pool: Pool) -> dict[str, str]:
    """Return the label of nodes with the device."""
    key, value = require_device(pool).node_label
    return {key: value}


def tolerations(pool: Pool) -> list[dict[str, str]]:
    """Return what lets pods onto nodes with the device, and onto spot nodes where planned so."""
    resource = require_device(pool).resource
    device = [{"key": resource, "operator": "Exists", "effect": "NoSchedule"}] if resource else []
    spot = [
        {"key": key, "operator": "Equal", "value": _SPOT_LABELS[key], "effect": "NoSchedule"}
        for key in _SPOT_TAINTS
    ]
    return device + (spot if pool.is_spot else [])


def affinity(pool: Pool) -> dict[str, Any]:
    """Return the market's nodes, and for CPU hosts one replica a node; owned nodes are any."""
    rules: dict[str, Any] = {}
    terms = _market_terms(pool)
    if terms:
        rules["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}
        }
    if require_device(pool).vendor == "cpu":
        rules["podAntiAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {
                    "labelSelector": {"matchLabels": _HOST_LABEL},
                    "topologyKey": "kubernetes.io/hostname",
                }
            ]
        }
    return rules


def resources(pool: Pool) -> dict[str, Any]:
    """Return limits and requests of a replica's container.

    A CPU host's replica asks for the planned share of the memory and for all cores but two, which
    the node keeps for itself.
    """
    device = require_device(pool)
    if device.resource is not None:
        return {"limits": {device.resource: str(pool.row.devices_per_replica)}}
    mebibytes = int(device.spec.memory_bytes * pool.row.memory_fraction) >> 20
    cores = {} if device.cores is None else {"cpu": str(max(1, device.cores - 2))}
    return {"requests": cores | {"memory": f"{mebibytes}Mi"}}


def region_remarks(pools: Sequence[Pool]) -> tuple[str, ...]:
    """Return what to know where the plan spans regions, which one cluster seldom does."""
    regions = sorted({pool.row.region for pool in pools if pool.row.region is not None})
    if len(regions) < 2:
        return ()
    return (
        f"The plan spans {', '.join(regions)}; pods are not bound to regions, so the nodes of each "
        "device must be where its offer says, and the router must reach them all",
    )


def _market_terms(pool: Pool) -> list[dict[str, Any]]:
    if pool.is_spot:
        # Terms are alternatives: one cloud's label is enough.
        return [_term(key, "In", value) for key, value in _SPOT_LABELS.items()]
    if pool.row.market == "on-demand":
        rules = [
            rule
            for key, value in _SPOT_LABELS.items()
            for rule in _term(key, "NotIn", value)["matchExpressions"]
        ]
        return [{"matchExpressions": rules}]
    return []


def _term(key: str, operator: str, value: str) -> dict[str, Any]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": [value]}]}
