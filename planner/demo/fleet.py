"""The demo's fleet as a plan: two replicas of the target on this machine, one of which drafts."""

from pathlib import Path

from planner.fleet.fleet_plan import FleetPlan, PlannedModel, PlannedReplicas, PlannedWeights
from planner.workloads.workload import Workload

MODEL = "tiny"
DRAFTING, PLAIN = "drafting", "plain"
"""The offers: the machine's own processor, with and without a draft model."""

_REQUESTS_PER_SECOND = 1.0
_LONGEST_TOKENS = 1024


def demo_plan(models: Path) -> FleetPlan:
    """Return the plan for the target and draft below `models`.

    Written by hand: the point is to run both ways side by side, so each gets half of the requests.
    Owned hardware costs nothing, so no fleet is cheaper.
    """
    workload = Workload(
        input_tokens_up_to=(_LONGEST_TOKENS,),
        output_tokens_up_to=(_LONGEST_TOKENS,),
        rates_requests_per_second=((_REQUESTS_PER_SECOND,),),
    )
    target = str(models / "target")
    return FleetPlan(
        status="optimal",
        cost_usd_per_hour=0.0,
        program_cost_usd_per_hour=0.0,
        bound_usd_per_hour=0.0,
        gap_fraction=0.0,
        solver="none: written by hand",
        solver_fallbacks=0,
        solve_seconds=0.0,
        models=(PlannedModel(name=MODEL, source=target, slo=None, workload=workload),),
        replicas=(
            _replica(DRAFTING, "--draft", str(models / "draft"), "--draft-tokens", "4"),
            _replica(PLAIN, "--no-draft"),
        ),
        weights=(
            PlannedWeights(
                model=MODEL,
                input_tokens_over=0,
                input_tokens_up_to=_LONGEST_TOKENS,
                rate_requests_per_second=_REQUESTS_PER_SECOND,
                shares_fraction={DRAFTING: 0.5, PLAIN: 0.5},
                weights={DRAFTING: 500, PLAIN: 500},
            ),
        ),
    )


def _replica(offer: str, *arguments: str) -> PlannedReplicas:
    return PlannedReplicas(
        model=MODEL,
        offer=offer,
        gpu=None,
        market="owned",
        replicas=1,
        price_usd_per_hour=0.0,
        cost_usd_per_hour=0.0,
        load_replicas=0.5,
        utilisation_fraction=0.5,
        utilisation_limit_fraction=1.0,
        speed="stated",
        max_sequences=16,
        # One thread each: the replicas share the cores, and threads that wait for each other crawl.
        engine_arguments=(*arguments, "--threads", "1"),
    )
