"""From looked-up models and kinds of replica to the numbers of the fleet program."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from planner.fleet_config import FleetConfig
from planner.fleet_models import FleetModel
from planner.fleet_program.problem import Cap, FleetProblem, ReplicaColumn, Rules, ShareRow
from planner.replica_kinds import ReplicaKind
from planner.workload import RequestSize


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
        limits_fraction: Utilisation limits by model and kind that stand in for the file's.
        current_replicas: Replicas of the current plan by model name and kind; nothing: none runs.
    """
    groups = size_groups(models, knows_outputs=knows_outputs)
    columns = (
        _column(config, models, kind, [group for group in groups if group.model == kind.model])
        for kind in kinds
    )
    columns = (_limited(column, limits_fraction or {}) for column in columns)
    if current_replicas is not None:
        columns = (_running(column, models, current_replicas) for column in columns)
    return FleetProblem(
        models=tuple(model.name for model in models),
        rows=tuple(_row(models, group, knows_outputs=knows_outputs) for group in groups),
        columns=tuple(columns),
        caps=tuple(_caps(config, kinds)),
        rules=_rules(config, models),
    )


def _row(models: Sequence[FleetModel], group: SizeGroup, *, knows_outputs: bool) -> ShareRow:
    sizes = models[group.model].sizes()
    rate = sum(sizes[s].rate_requests_per_second for s in group.sizes)
    return ShareRow(group.model, group.name(knows_outputs=knows_outputs), rate)


def _column(
    config: FleetConfig,
    models: Sequence[FleetModel],
    kind: ReplicaKind,
    groups: Sequence[SizeGroup],
) -> ReplicaColumn:
    offer = kind.offer
    return ReplicaColumn(
        model=kind.model,
        offer=kind.name,
        price_usd_per_hour=kind.price_usd_per_hour,
        loads=tuple(_load(models[kind.model], kind, group) for group in groups),
        utilisation_limit_fraction=offer.limit_fraction(config.utilisation_limit_fraction),
        gpus=kind.num_devices,
        gpu_type=offer.gpu or offer.base_name,
        market=offer.market,
        region=offer.region or "",
        is_spot=offer.market == "spot",
    )


def _limited(column: ReplicaColumn, limits: Mapping[tuple[int, str], float]) -> ReplicaColumn:
    limit = limits.get((column.model, column.offer))
    return column if limit is None else replace(column, utilisation_limit_fraction=limit)


def _running(
    column: ReplicaColumn, models: Sequence[FleetModel], current: Mapping[tuple[str, str], int]
) -> ReplicaColumn:
    name = models[column.model].name
    return replace(column, current_replicas=current.get((name, column.offer), 0))


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
