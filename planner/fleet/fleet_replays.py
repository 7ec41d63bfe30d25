"""Which requests are replayed on a plan of a file's models, and why some cannot be."""

from collections.abc import Mapping
from dataclasses import replace

from planner.fleet.fleet_config import Verification
from planner.fleet.fleet_models import FleetModel
from planner.fleet.plan_document import FleetInputs
from planner.fleet.replay import DrawnReplay, RecordedReplay, Replay, drawn_requests, most_requests
from planner.workloads.trace import Trace


def obstacle_to_replay(inputs: FleetInputs) -> str:
    """Return why plans of these inputs cannot be replayed; empty where they can."""
    if inputs.config.shares == "oracle":
        return "no router can follow shares by output size"
    for model in inputs.models:
        if model.config.slo is None:
            return f"{model.name} has no slo"
    for kind in inputs.kinds:
        if not any(rate.requests_per_second for rate in kind.speed.rates):
            continue
        if kind.source == "stated":
            return f"{kind.name} states throughputs, which cannot be replayed"
        if kind.speed.speed is None:
            return f"{kind.name} cannot be replayed: {kind.speed.obstacle_to_replay}"
    return ""


def replays(inputs: FleetInputs, verification: Verification) -> Mapping[str, Replay]:
    """Return what to replay, by model."""
    return {model.name: _replay(model, verification) for model in inputs.models}


def _replay(model: FleetModel, verification: Verification) -> Replay:
    most = verification.max_requests
    if model.trace is None:
        num_requests = drawn_requests(model.workload, most=most or most_requests(model.workload))
        return DrawnReplay(
            model.workload,
            model.replayed,
            num_requests,
            num_replications=verification.replications,
            seed=verification.seed,
        )
    trace, words = model.trace, model.replayed
    if most is not None and trace.num_requests > most:
        words += f", its busiest {most:,} requests in a row"
        trace = busiest_requests(trace, most)
    return RecordedReplay(replace(trace, models=None), words, seed=verification.seed)


def busiest_requests(trace: Trace, num_requests: int) -> Trace:
    """Return so many consecutive requests of a trace: those that arrive in the shortest time."""
    arrivals = trace.arrival_seconds
    starts = range(trace.num_requests - num_requests + 1)
    first = min(starts, key=lambda start: arrivals[start + num_requests - 1] - arrivals[start])
    cut = slice(first, first + num_requests)
    return Trace(
        tuple(at - arrivals[first] for at in arrivals[cut]),
        trace.input_tokens[cut],
        trace.output_tokens[cut],
    )
