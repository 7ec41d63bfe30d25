"""From a solved program to the plan's document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from planner.fleet.fleet_config import DEFAULT_REPLICATIONS, FleetConfig
from planner.fleet.fleet_models import FleetModel
from planner.fleet.fleet_plan import (
    WEIGHT_SUM,
    FittedSpeed,
    FleetPlan,
    MarketLoss,
    PlannedModel,
    PlannedReplicas,
    PlannedWeights,
)
from planner.fleet.fleet_rows import SizeGroup, size_groups
from planner.fleet.kind_rates import tail_sizes
from planner.fleet.replica_kinds import ReplicaKind
from planner.fleet.requests_config import MixRequests
from planner.fleet.weights import integer_weights
from planner.fleet_program.answer import FleetAnswer, Shares
from planner.fleet_program.infeasible import Hindrance
from planner.fleet_program.problem import FleetProblem, ReplicaColumn, ShareRow
from planner.hardware.catalogue import Market
from planner.hardware.coefficients import built_in_coefficients
from planner.profiling.fitted_steps import FittedStepTimes


@dataclass(frozen=True, slots=True)
class FleetInputs:
    """A planned file with everything looked up."""

    config: FleetConfig
    models: tuple[FleetModel, ...]
    kinds: tuple[ReplicaKind, ...]
    current_replicas: Mapping[tuple[str, str], int] | None = None
    """Replicas that run now by model and offer; nothing: the file names no current plan."""

    @property
    def knows_outputs(self) -> bool:
        """Tell whether shares may depend on the output: the oracle form."""
        return self.config.shares == "oracle"

    def groups(self) -> tuple[SizeGroup, ...]:
        """Return the request sizes behind each row of the program."""
        return size_groups(self.models, knows_outputs=self.knows_outputs)

    def obstacle(self, column: int, position: int) -> Hindrance | None:
        """Return why a kind cannot serve the row at this position of its model; nothing: it can."""
        kind = self.kinds[column]
        group = [group for group in self.groups() if group.model == kind.model][position]
        rates = [kind.speed.rates[s] for s in group.sizes]
        return next((Hindrance(r.obstacle, r.over_limit) for r in rates if r.obstacle), None)

    def why_not(self, column: ReplicaColumn, row: ShareRow) -> Hindrance:
        """Return why a column of the program cannot serve a row of it."""
        c = next(
            c
            for c, kind in enumerate(self.kinds)
            if (kind.model, kind.name) == (column.model, column.offer)
        )
        names = [
            group.name(knows_outputs=self.knows_outputs)
            for group in self.groups()
            if group.model == column.model
        ]
        return self.obstacle(c, names.index(row.name)) or Hindrance("cannot serve it")

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of any plan made of it must know."""
        notes = [note for model in self.models for note in model.notes]
        notes += dict.fromkeys(note for kind in self.kinds for note in kind.speed.notes)
        notes += [note for model in self.models if (note := _replications_note(self.config, model))]
        modelled = {kind.model for kind in self.kinds if kind.source == "modelled"}
        notes += [note for m in sorted(modelled) if (note := _tail_note(self.models[m]))]
        if modelled:
            notes.append(
                f"speeds are modelled (coefficients {self.config.coefficients}), not measured; "
                "`motley plan profile` measures yours"
            )
        return tuple(notes)


def _replications_note(config: FleetConfig, model: FleetModel) -> str:
    """Return that a trace is not replayed as often as the file asks; empty where it asks nothing."""
    asked = config.verification.replications if config.verification else DEFAULT_REPLICATIONS
    if model.trace is None or asked == DEFAULT_REPLICATIONS:
        return ""
    return (
        f"{model.name}: a trace or a mix is replayed once, in stretches; verification.replications "
        f"({asked}) is for grids alone"
    )


def _tail_note(model: FleetModel) -> str:
    """Return which requests may be late by the percentile; empty where none may."""
    sizes, tail = model.sizes(), tail_sizes(model)
    if not tail or model.config.slo is None:
        return ""
    total = sum(size.rate_requests_per_second for size in sizes)
    late = sum(sizes[s].rate_requests_per_second for s in tail) / total
    start = min(sizes[s].input_tokens_over for s in tail)
    return (
        f"{model.name}: inputs over {start:,} tokens ({late:.2%} of requests) are planned without the "
        f"TTFT limit, as its {model.config.slo.ttft_statistic} allows; the replay judges all"
    )


def plan_document(
    inputs: FleetInputs, problem: FleetProblem, answer: FleetAnswer, *, num_fallbacks: int
) -> FleetPlan:
    """Return the document of a solved problem; call it only for an answer with a plan."""
    groups = inputs.groups()
    used = [kind for kind, count in zip(inputs.kinds, answer.counts, strict=True) if count]
    modelled = [kind for kind in used if kind.source == "modelled"]
    losses = (
        MarketLoss(market=_market(market), weights=_weights(inputs, groups, shares))
        for market, shares in answer.shares_without_market
    )
    return FleetPlan(
        status="optimal" if answer.status == "optimal" else "feasible",
        cost_usd_per_hour=answer.cost_usd_per_hour,
        bound_usd_per_hour=answer.bound_usd_per_hour,
        gap_fraction=answer.gap_fraction,
        program_cost_usd_per_hour=answer.cost_usd_per_hour,
        oracle_shares=inputs.knows_outputs,
        survives=inputs.config.survive,
        solver=answer.solver,
        solver_fallbacks=num_fallbacks,
        solve_seconds=answer.seconds,
        notes=inputs.notes,
        models=tuple(map(_model, inputs.models)),
        replicas=_replicas(inputs, problem, answer),
        weights=_weights(inputs, groups, answer.shares),
        market_losses=tuple(losses),
        gpus=tuple({kind.gpu.name: kind.gpu for kind in used if kind.gpu}.values()),
        model_specs={
            inputs.models[kind.model].name: spec
            for kind in modelled
            if (spec := inputs.models[kind.model].spec) is not None
        },
        coefficients=(built_in_coefficients(inputs.config.coefficients),) if modelled else (),
    )


def _market(name: str) -> Market:
    markets: tuple[Market, ...] = ("on-demand", "spot", "owned")
    return next(market for market in markets if market == name)


def _model(model: FleetModel) -> PlannedModel:
    return PlannedModel(
        name=model.name,
        source=model.config.weights if model.spec is not None else model.config.source,
        slo=model.config.slo,
        workload=model.workload,
        mix=model.config.workload if isinstance(model.config.workload, MixRequests) else None,
    )


def _replicas(
    inputs: FleetInputs, problem: FleetProblem, answer: FleetAnswer
) -> tuple[PlannedReplicas, ...]:
    loads = column_loads(problem, answer.shares)
    rows = []
    for c, (kind, count) in enumerate(zip(inputs.kinds, answer.counts, strict=True)):
        if count == 0:
            continue
        model = inputs.models[kind.model]
        rows.append(
            PlannedReplicas(
                model=model.name,
                offer=kind.name,
                gpu=kind.gpu.name if kind.gpu else None,
                tensor_parallel=kind.tensor_parallel,
                pipeline_parallel=kind.pipeline_parallel,
                market=kind.offer.market,
                region=kind.offer.region,
                replicas=count,
                max_replicas=kind.offer.max_replicas,
                price_usd_per_hour=kind.price_usd_per_hour,
                cost_usd_per_hour=count * kind.price_usd_per_hour,
                load_replicas=loads[c],
                utilisation_fraction=loads[c] / count,
                utilisation_limit_fraction=problem.columns[c].utilisation_limit_fraction,
                speed=kind.source,
                coefficients=inputs.config.coefficients if kind.source == "modelled" else None,
                weight_dtype=model.config.weight_dtype
                if kind.source == "modelled"
                else model.config.given_weight_dtype,
                kv_dtype=model.config.cache_dtype
                if kind.source == "modelled"
                else model.config.given_cache_dtype,
                max_context_tokens=kind.speed.speed.longest_request_tokens
                if kind.speed.speed
                else model.context_tokens,
                fitted=_fitted(kind),
                memory_fraction=kind.offer.memory_fraction,
                max_sequences=kind.speed.speed.max_sequences
                if kind.speed.speed
                else kind.offer.max_sequences,
                max_batched_tokens=kind.offer.max_batched_tokens,
                engine_arguments=kind.offer.engine_arguments,
            )
        )
    return tuple(rows)


def _fitted(kind: ReplicaKind) -> FittedSpeed | None:
    speed = kind.speed.speed
    if speed is None or not isinstance(speed.step_times, FittedStepTimes):
        return None
    return FittedSpeed(
        **asdict(speed.step_times),
        request_overhead_seconds=speed.request_overhead_seconds,
        kv_capacity_tokens=speed.kv_capacity_tokens,
        max_context_tokens=speed.max_context_tokens,
    )


def column_loads(problem: FleetProblem, shares: Shares) -> list[float]:
    """Return the replicas, at full load, that the shares take of each column."""
    loads = [0.0] * len(problem.columns)
    for model in range(len(problem.models)):
        for position, r in enumerate(problem.rows_of(model)):
            for c, share in shares[r]:
                loads[c] += (problem.columns[c].loads[position] or 0.0) * share
    return loads


def _weights(
    inputs: FleetInputs, groups: Sequence[SizeGroup], shares: Shares
) -> tuple[PlannedWeights, ...]:
    rows = []
    knows_outputs = inputs.knows_outputs
    last_end: dict[int, int] = {}
    for group, row in zip(groups, shares, strict=True):
        model, first = inputs.models[group.model], group.first
        by_name = {inputs.kinds[c].name: share for c, share in row}
        over = first.input_tokens_over if knows_outputs else last_end.get(group.model, 0)
        sizes = model.sizes()
        rows.append(
            PlannedWeights(
                model=model.name,
                input_tokens_over=over,
                input_tokens_up_to=first.input_tokens_up_to,
                output_tokens_over=first.output_tokens_over if knows_outputs else None,
                output_tokens_up_to=first.output_tokens_up_to if knows_outputs else None,
                rate_requests_per_second=sum(
                    sizes[s].rate_requests_per_second for s in group.sizes
                ),
                shares_fraction=by_name,
                weights=integer_weights(by_name, total=WEIGHT_SUM),
            )
        )
        last_end[group.model] = first.input_tokens_up_to
    return tuple(rows)
