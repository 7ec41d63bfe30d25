"""A plan as renderers see it: pools of equal replicas with names, engines and arguments."""

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from planner.errors import RenderError
from planner.fleet.fleet_plan import FleetPlan, PlannedModel, PlannedReplicas, PlannedWeights
from planner.render.devices import OWN_LABEL, Device, find_devices
from planner.render.engines import Engine, motley_arguments, motley_kv_bytes, vllm_arguments
from planner.render.options import RenderOptions

PORT = 8000
"""Where replicas and the router listen, each in its own container."""

MOST_DEVICES = 8
"""Devices of one machine: larger replicas span several, which no target renders."""

_LONGEST_NAME = 44


@dataclass(frozen=True, slots=True)
class Pool:
    """The replicas of one offer for one model."""

    name: str
    """A DNS label, unique in the fleet."""
    model: PlannedModel
    row: PlannedReplicas
    device: Device | None
    """None: the offer names no device; only the local target can render it."""
    engine: Engine
    arguments: tuple[str, ...]
    """Words after `vllm serve` or `motley serve`, without address and port."""

    @property
    def command(self) -> tuple[str, ...]:
        """The words that start a replica, without address and port."""
        return (self.engine, "serve", *self.arguments)

    @property
    def is_spot(self) -> bool:
        """Whether its machines can be taken away at any time."""
        return self.row.market == "spot"

    @property
    def vendor(self) -> str:
        """Maker of the device, or `cpu`."""
        return "cpu" if self.device is None else self.device.vendor

    @property
    def labels(self) -> dict[str, str]:
        """Labels of its objects, for selectors and metrics."""
        return {
            "app.kubernetes.io/name": "motley",
            "app.kubernetes.io/component": "replica",
            "app.kubernetes.io/instance": self.name,
            "motley/model": label_value(self.row.model),
            "motley/offer": label_value(self.row.offer),
        }


@dataclass(frozen=True, slots=True)
class RenderedFleet:
    """A plan ready to be rendered."""

    plan: FleetPlan
    plan_id: str
    """First twelve digits of the plan's SHA-256: the same plan has the same."""
    pools: tuple[Pool, ...]
    notes: tuple[str, ...]
    """What a reader of the files must know, one sentence each."""

    def pools_of(self, model: str) -> tuple[Pool, ...]:
        """Return the pools that serve a model."""
        return tuple(pool for pool in self.pools if pool.row.model == model)

    def weights_of(self, model: str) -> tuple[PlannedWeights, ...]:
        """Return the planned weights of a model, by input range, rising."""
        return tuple(row for row in self.plan.weights if row.model == model)


def read_fleet(plan: FleetPlan, options: RenderOptions) -> RenderedFleet:
    """Return the plan as pools.

    Raises:
        RenderError: If no router can follow it, or an engine cannot run a replica of it.
        UnknownNameError: If a device is in no catalogue.
    """
    if plan.oracle_shares or any(row.output_tokens_up_to is not None for row in plan.weights):
        raise RenderError(
            "the plan's shares depend on output lengths, which no router knows; "
            "plan again without the oracle form"
        )
    pools = tuple(_pools(plan, options))
    content = plan.model_dump_json(exclude_defaults=True)
    plan_id = hashlib.sha256(content.encode()).hexdigest()[:12]
    return RenderedFleet(plan, plan_id, pools, tuple(_notes(plan, pools)))


def label_value(text: str) -> str:
    """Return `text` as a Kubernetes label's value: at most 63 of letters, digits and `-_.`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:63].strip("-_.")


def dns_label(text: str, *, taken: Collection[str] = ()) -> str:
    """Return `text` as a DNS label: letters, digits and dashes, at most 44, none of `taken`."""
    label = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:6]
    if not label[:1].isalpha():
        label = f"m-{label or digest}"
    if len(label) <= _LONGEST_NAME and label not in taken:
        return label
    return f"{label[: _LONGEST_NAME - 7].rstrip('-')}-{digest}"


def _pools(plan: FleetPlan, options: RenderOptions) -> Iterator[Pool]:
    models = {model.name: model for model in plan.models}
    devices = find_devices(plan)
    names: set[str] = set()
    for row in plan.replicas:
        model = models[row.model]
        if model.source is None:
            raise RenderError(
                f"{row.model}: the plan names no source of the weights, so nothing can be started; "
                "give the model's hub id or folder as its source and plan again"
            )
        if row.devices_per_replica > MOST_DEVICES:
            raise RenderError(
                f"{row.model} on {row.offer}: a replica of {row.devices_per_replica} devices spans "
                f"several machines, which is not rendered; plan with at most {MOST_DEVICES}"
            )
        device = None if row.gpu is None else devices[row.gpu]
        engine = _engine(options, device)
        arguments = (
            vllm_arguments(model, row)
            if engine == "vllm"
            else motley_arguments(model, row, device, plan)
        )
        name = dns_label(f"{row.model}-{row.offer}", taken=names)
        names.add(name)
        yield Pool(name, model, row, device, engine, arguments)


def _engine(options: RenderOptions, device: Device | None) -> Engine:
    if options.engine != "auto":
        return options.engine
    return "motley" if device is None or device.vendor == "cpu" else "vllm"


def _notes(plan: FleetPlan, pools: tuple[Pool, ...]) -> Iterator[str]:
    yield from plan.notes
    for pool in pools:
        row, where = pool.row, f"{pool.row.model} on {pool.row.offer}"
        if pool.engine == "motley":
            yield (
                f"{where}: motley serve has no flag for the planned {row.max_batched_tokens} tokens "
                "a step and the longest context; it serves the model's own"
            )
            if motley_kv_bytes(row, pool.device, plan.model_specs.get(row.model)) is None:
                yield f"{where}: the plan knows no size of the cache; motley serve takes its default"
            if pool.vendor != "cpu":
                yield f"{where}: the rendered Dockerfile has torch for CPUs; install one for its GPU"
        elif row.weight_dtype in ("int8", "int4"):
            yield f"{where}: {pool.model.source} must be a checkpoint quantised to {row.weight_dtype}"
        if pool.device is not None and pool.device.node_label[0] == OWN_LABEL:
            yield f"{where}: nodes are found by the label {OWN_LABEL}={pool.device.spec.name}; set it"
