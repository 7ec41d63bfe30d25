"""From looked-up models and kinds of replica to the numbers of the fleet program."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.fleet.fleet_config import FleetConfig
from planner.fleet.fleet_models import FleetModel
from planner.fleet.replica_kinds import ReplicaKind
from planner.fleet_program.problem import Cap, FleetProblem, ReplicaColumn, Rules, ShareRow
from planner.workloads.workload import RequestSize


@dataclass(frozen=True, slots=True)
class SizeGroup:
    """The request sizes of one model that one row of the program stands for."""

    model: int
    sizes: tuple[int, ...]
    """Indices into the model's sizes."""
    first: RequestSize
    """One of them: its input range is that of all, in the oracle form its output range too."""

    def name(self, *, knows_outputs: bool) -> str:
        """Return the row's name for messages."""
        inputs = f"input {self.first.input_tokens_over + 1}-{self.first.input_tokens_up_to}"
        if not knows_outputs:
            return f"{inputs} tokens"
        outputs = f"output {self.first.output_tokens_over + 1}-{self.first.output_tokens_up_to}"
        return f"{inputs}, {outputs} tokens"


def size_groups(models: Sequence[FleetModel], *, knows_outputs: bool) -> tuple[SizeGroup, ...]:
    """Return the groups that share their shares: an input range each, or a size each."""
    groups = []
    for number, model in enumerate(models):
        sizes = model.sizes()
        members: dict[object, list[int]] = defaultdict(list)
        for s, size in enumerate(sizes):
            members[s if knows_outputs else size.input_tokens_up_to].append(s)
        groups += [SizeGroup(number, tuple(each), sizes[each[0]]) for each in members.values()]
    return tuple(groups)


def fleet_problem(
    config: FleetConfig,
    models: Sequence[FleetModel],
    kinds: Sequence[ReplicaKind],
    *,
    knows_outputs: bool,
    limits_fraction: Mapping[tuple[int, str], float] | None = None,
    current_replicas: Mapping[tuple[str, str], int] | None = None,
) -> FleetProblem:
    """Return the program's numbers.

    Args:
        config: The file: caps and rules.
        models: Its models.
        kinds: Its kinds of replica; the columns, in this order.
        knows_outputs: The oracle form: shares by input and output.
        limits_fraction: Utilisation limits by model and kind that stand in for the file's. Above 1 a
            replay has shown that replicas hold so many times what their throughputs state: the
            loads shrink by it and the limit is 1.
        current_replicas: Replicas of the current plan by model name and kind; nothing: none runs.
    """
    groups = size_groups(models, knows_outputs=knows_outputs)
    rows = tuple(
        ShareRow(
            group.model,
            group.name(knows_outputs=knows_outputs),
            sum(models[group.model].sizes()[s].rate_requests_per_second for s in group.sizes),
        )
        for group in groups
    )
    columns = []
    for kind in kinds:
        model, own = models[kind.model], [g for g in groups if g.model == kind.model]
        limit = (limits_fraction or {}).get((kind.model, kind.name))
        if limit is None:
            limit = kind.offer.limit_fraction(config.utilisation_limit_fraction)
        current = None
        if current_replicas is not None:
            current = current_replicas.get((model.name, kind.name), 0)
        loads = tuple(_load(model, kind, group) for group in own)
        scale = max(1.0, min(limit, kind.speed.headroom))
        loads = tuple(load and load / scale for load in loads)
        columns.append(_column(kind, loads, min(limit, 1.0), kind.speed.headroom / scale, current))
    return FleetProblem(
        models=tuple(model.name for model in models),
        rows=rows,
        columns=tuple(columns),
        caps=tuple(_caps(config, kinds)),
        rules=_rules(config, models),
    )


def _column(
    kind: ReplicaKind,
    loads: tuple[float | None, ...],
    limit_fraction: float,
    most_load_fraction: float,
    current_replicas: int | None,
) -> ReplicaColumn:
    return ReplicaColumn(
        model=kind.model,
        offer=kind.name,
        price_usd_per_hour=kind.price_usd_per_hour,
        loads=loads,
        utilisation_limit_fraction=limit_fraction,
        most_load_fraction=most_load_fraction,
        gpus=kind.num_devices,
        gpu_type=kind.offer.gpu or kind.offer.base_name,
        market=kind.offer.market,
        region=kind.offer.region or "",
        is_spot=kind.offer.market == "spot",
        current_replicas=current_replicas,
    )


def _load(model: FleetModel, kind: ReplicaKind, group: SizeGroup) -> float | None:
    """Return the replicas that the group's requests fill; nothing: one size cannot be served."""
    sizes = model.sizes()
    rates = [kind.speed.rates[s].requests_per_second for s in group.sizes]
    if not all(rates):
        return None
    parts = zip(group.sizes, rates, strict=True)
    return sum(sizes[s].rate_requests_per_second / rate for s, rate in parts)


def _caps(config: FleetConfig, kinds: Sequence[ReplicaKind]) -> list[Cap]:
    caps = []
    for cap in config.caps:
        columns = tuple(c for c, kind in enumerate(kinds) if cap.covers(kind.offer))
        caps.append(Cap(f"max_gpus of {cap.name}", cap.max_gpus, columns))
    for offer in config.offers:
        columns = tuple(c for c, kind in enumerate(kinds) if kind.offer is offer)
        if offer.max_gpus is not None:
            caps.append(Cap(f"max_gpus of {offer.base_name}", offer.max_gpus, columns))
        if offer.max_replicas is not None:
            for name in {kinds[c].name: None for c in columns}:
                same = tuple(c for c in columns if kinds[c].name == name)
                caps.append(Cap(f"max_replicas of {name}", offer.max_replicas, same, "replicas"))
    return caps


def _rules(config: FleetConfig, models: Sequence[FleetModel]) -> Rules:
    return Rules(
        budget_usd_per_hour=config.budget_usd_per_hour,
        spot_fraction_limit=config.max_spot_fraction,
        min_replicas_used=config.min_replicas_used,
        min_replicas_of_model=tuple(model.config.min_replicas for model in models),
        max_change_replicas=config.max_change_replicas,
        survive_one_replica="one-replica" in config.survive,
        survive_one_market="one-market" in config.survive,
    )
