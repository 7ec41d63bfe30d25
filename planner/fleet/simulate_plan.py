"""`motley plan simulate`: requests replayed on a plan's document, whole or after a loss."""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from planner.errors import UnknownNameError, UnverifiableError, WorkloadError
from planner.fleet.fleet_plan import FleetPlan, PlannedModel
from planner.fleet.judging import OnProgress, targets_of
from planner.fleet.planned_fleet import planned_fleet
from planner.fleet.replay import (
    DrawnReplay,
    RecordedReplay,
    Replay,
    drawn_requests,
    most_requests,
    too_few,
)
from planner.fleet.verification import VerificationReport, VerifiedTarget
from planner.simulator import ServingFleet, without_market, without_replica
from planner.simulator.judgement import judge
from planner.workloads.synthetic import synthetic_trace
from planner.workloads.trace import MOST_TOKENS, Trace
from planner.workloads.trace_readers import TraceReading, read_trace
from planner.workloads.workload_source import FileOptions

_AS_IT_STANDS = FileOptions()
_REMEDY = "name what the plan has replicas of"


@dataclass(frozen=True, slots=True)
class Losses:
    """What is gone from the start."""

    replica: str | None = None
    """Offer of which one replica is gone; MODEL/OFFER where several models have replicas of it."""
    market: str | None = None
    """Market of which every replica is gone."""


def simulate_plan(
    plan: FleetPlan,
    *,
    trace_file: Path | None = None,
    requests_per_second: float | None = None,
    unnamed: str | None = None,
    file_options: FileOptions = _AS_IT_STANDS,
    losses: Losses = Losses(),
    seed: int = 0,
    on_progress: OnProgress,
) -> VerificationReport:
    """Return how the plan's targets fare when requests are replayed on it.

    Args:
        plan: The plan.
        trace_file: Requests; nothing: drawn from the plan's workload.
        requests_per_second: Rate of a trace's requests, all models together.
        unnamed: Model that requests without one ask for; nothing: the plan's only one.
        file_options: How to read the trace file.
        losses: What is gone from the start.
        seed: Of the draws.
        on_progress: Told the model under replay and the fraction done.

    Raises:
        DocumentError: If the trace cannot be read.
        WorkloadError: If it asks for models that the plan does not serve, or for nothing at all.
        UnverifiableError: If a speed is not known step by step, a model has no target, or a replica
            that is to be gone is of an offer that several models have.
        InfeasibleError: If a loss leaves requests with nobody.
        UnknownNameError: If the plan has no replica of what is to be gone, or no model `unnamed`.
    """
    _check_losses(plan, losses)
    _check_unnamed(plan, unnamed)
    notes: tuple[str, ...] = ()
    if trace_file is None:
        _refuse_without_trace(requests_per_second, unnamed, file_options)
        replays = {model.name: _drawn_again(model, seed) for model in plan.models}
    else:
        reading = _read(trace_file, file_options)
        traces = _by_model(plan, _at_rate(reading.trace, requests_per_second), unnamed)
        replays, notes = _recorded(plan, traces, trace_file.name, seed), reading.notes
    targets = [
        target
        for model in plan.models
        for target in _targets(plan, model, replays.get(model.name), losses, on_progress)
    ]
    return VerificationReport(
        status="met" if all(target.is_met for target in targets) else "best attained",
        replayed="; ".join((_in_words(plan, replays), *notes)),
        num_requests=sum(replay.num_requests for replay in replays.values()),
        replayed_seconds=min(replay.duration_seconds for replay in replays.values()),
        num_samples=min(replay.num_samples for replay in replays.values()),
        num_rounds=1,
        cost_before_usd_per_hour=plan.cost_usd_per_hour,
        targets=tuple(targets),
        models_without_requests=tuple(m.name for m in plan.models if m.name not in replays),
        models_with_few_requests=too_few(replays),
        models_drawn_from_grid=_drawn_from_grid(plan) if trace_file is None else (),
    )


def _targets(
    plan: FleetPlan,
    model: PlannedModel,
    replay: Replay | None,
    losses: Losses,
    on_progress: OnProgress,
) -> tuple[VerifiedTarget, ...]:
    """Return the outcome of each target of one model; none where it has no requests."""
    if model.slo is None:
        raise UnverifiableError(f"{model.name} has no latency target to judge; plan with an slo")
    if replay is None:
        return ()
    samples = replay.samples(
        _fleet(plan, model.name, losses),
        count_tokens=model.slo.tpot_seconds is not None and model.slo.tpot_per == "token",
        on_progress=lambda fraction: on_progress(f"replaying {model.name}", fraction),
    )
    return targets_of(model.name, judge(model.slo, samples))


def _drawn_from_grid(plan: FleetPlan) -> tuple[str, ...]:
    return tuple(model.name for model in plan.models if model.mix is None)


def _in_words(plan: FleetPlan, replays: Mapping[str, Replay]) -> str:
    return "; ".join(
        f"{model.name}: {replays[model.name].words if model.name in replays else 'no requests'}"
        for model in plan.models
    )


def _check_losses(plan: FleetPlan, losses: Losses) -> None:
    markets = {row.market: None for row in plan.replicas}
    if losses.replica is not None:
        _lost_replica(plan, losses.replica)
    if losses.market is not None and losses.market not in markets:
        raise UnknownNameError("market of the plan", losses.market, markets, _REMEDY)


def _lost_replica(plan: FleetPlan, name: str) -> tuple[str, str]:
    """Return model and offer of the one pool that `name`, OFFER or MODEL/OFFER, stands for."""
    full = {(row.model, row.offer): f"{row.model}/{row.offer}" for row in plan.replicas}
    found = [pool for pool in full if name in (pool[1], full[pool])]
    if not found:
        offers = dict.fromkeys(row.offer for row in plan.replicas)
        raise UnknownNameError("offer of the plan", name, offers, _REMEDY)
    if len(found) > 1:
        choices = ", ".join(full[pool] for pool in found)
        raise UnverifiableError(
            f"{name} is an offer of several models, and one replica is to go; name one of {choices}"
        )
    return found[0]


def _check_unnamed(plan: FleetPlan, unnamed: str | None) -> None:
    served = [model.name for model in plan.models]
    if unnamed is not None and unnamed not in served:
        remedy = "give --model a model that the plan serves"
        raise UnknownNameError("model of the plan", unnamed, served, remedy)


def _fleet(plan: FleetPlan, model: str, losses: Losses) -> ServingFleet:
    fleet = planned_fleet(plan, model)
    if losses.replica is not None:
        loser, offer = _lost_replica(plan, losses.replica)
        if loser == model:
            names = [pool.name for pool in fleet.pools]
            fleet = without_replica(fleet, names.index(offer))
    if losses.market is not None and any(pool.market == losses.market for pool in fleet.pools):
        weights = [loss.weights for loss in plan.market_losses if loss.market == losses.market]
        shares = planned_fleet(plan, model, weights=weights[0]).shares if weights else None
        fleet = without_market(fleet, losses.market, shares=shares)
    return fleet


def _refuse_without_trace(
    requests_per_second: float | None, unnamed: str | None, options: FileOptions
) -> None:
    """Refuse what says how to replay a trace where none is given."""
    given = {
        "--requests-per-second": requests_per_second is not None,
        "--model": unnamed is not None,
        "--broken-rows-fraction": options.broken_rows_fraction > 0,
        "--sort-rows": options.sort_rows,
    }
    for option, is_given in given.items():
        if is_given:
            raise WorkloadError(f"{option} is for a trace; give one with --trace")


def _read(trace_file: Path, options: FileOptions) -> TraceReading:
    return read_trace(
        trace_file,
        broken_rows_fraction=options.broken_rows_fraction,
        sort_rows=options.sort_rows,
    )


def _at_rate(trace: Trace, requests_per_second: float | None) -> Trace:
    if requests_per_second is None:
        return trace
    return trace.scaled(requests_per_second=requests_per_second)


def _recorded(
    plan: FleetPlan, traces: Mapping[str, Trace], file_name: str, seed: int
) -> dict[str, Replay]:
    for name, trace in traces.items():
        _check_context(plan, name, trace)
    return {
        name: RecordedReplay(trace, f"{file_name}, {trace.num_requests:,} requests", seed)
        for name, trace in traces.items()
    }


def _drawn_again(model: PlannedModel, seed: int) -> Replay:
    """Return requests such as the plan was made for: of its mix, else of its grid of sizes."""
    mix = model.mix
    if mix is None:
        return DrawnReplay(
            model.workload,
            "requests drawn from the plan's grid of sizes, a coarse stand-in for a trace",
            drawn_requests(model.workload, most=most_requests(model.workload)),
            seed=seed,
        )
    trace = synthetic_trace(
        mix.mix,
        requests_per_second=mix.requests_per_second,
        duration_seconds=mix.duration_seconds,
        generator=Random(seed),
        gap_scv=mix.gap_scv,
    )
    words = f"mix {mix.mix}, seed {seed}, {trace.num_requests:,} requests"
    return RecordedReplay(trace, words, seed)


def _check_context(plan: FleetPlan, model: str, trace: Trace) -> None:
    """Refuse requests longer than the sequences that the replicas they may go to serve."""
    contexts = {row.offer: row.max_context_tokens for row in plan.replicas if row.model == model}
    ranges = [row for row in plan.weights if row.model == model]
    ends = [row.input_tokens_up_to for row in ranges[:-1]]
    most = [min(contexts[offer] or MOST_TOKENS for offer in row.weights) for row in ranges]
    longer = [
        (inputs + outputs, limit)
        for inputs, outputs in zip(trace.input_tokens, trace.output_tokens, strict=True)
        if inputs + outputs > (limit := most[bisect_left(ends, inputs)])
    ]
    if longer:
        length, limit = max(longer)
        raise WorkloadError(
            f"{len(longer):,} requests of the trace for {model} are longer than the context of "
            f"replicas they may go to, the longest {length:,} tokens of {limit:,}; raise "
            "max_context_tokens and plan again, or leave them out"
        )


def _by_model(plan: FleetPlan, trace: Trace, unnamed: str | None) -> dict[str, Trace]:
    """Return the requests of each model; where the plan serves one, all are for it."""
    if unnamed is not None and trace.models is not None and "" not in trace.models:
        raise WorkloadError(
            f"every request of the trace names its model, so --model {unnamed} is for none of "
            "them; leave it out"
        )
    if len(plan.models) == 1:
        return {
            plan.models[0].name: Trace(
                trace.arrival_seconds, trace.input_tokens, trace.output_tokens
            )
        }
    named = trace.with_unnamed(unnamed)
    served = {model.name for model in plan.models}
    strange = [name for name in named.num_requests_by_model if name not in served]
    if strange:
        count = named.num_requests_by_model[strange[0]]
        raise WorkloadError(
            f"{count:,} requests of the trace are for {strange[0]}, which the plan does not serve "
            f"({', '.join(sorted(served))}); rename the model in one of them"
        )
    return {name: named.of_model(name) for name in named.num_requests_by_model}
