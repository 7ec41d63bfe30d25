"""From a plan's document to the fleet that the simulator runs: one model's pools and weights."""

from collections.abc import Sequence

from planner.errors import UnverifiableError
from planner.fleet.fleet_plan import WEIGHT_SUM, FleetPlan, PlannedReplicas, PlannedWeights
from planner.profiling.fitted_steps import FittedStepTimes
from planner.simulator import ReplicaPool, ServingFleet, SizeShares
from planner.speed.obstacle import Obstacle
from planner.speed.replica_design import ReplicaDesign
from planner.speed.replica_speed import ReplicaSpeed, replica_speed


def planned_fleet(
    plan: FleetPlan, model: str, *, weights: Sequence[PlannedWeights] | None = None
) -> ServingFleet:
    """Return the pools that serve a model, under the plan's weights or others.

    Its shares are the integer weights, as the router draws by these.

    Raises:
        UnverifiableError: If a speed is not known step by step, or no router can follow the shares.
    """
    if plan.oracle_shares:
        raise UnverifiableError("shares by output size are no router's to follow; plan by input")
    rows = [row for row in plan.replicas if row.model == model]
    shares = [row for row in weights or plan.weights if row.model == model]
    names = [row.offer for row in rows]
    return ServingFleet(
        pools=tuple(_pool(plan, row) for row in rows),
        shares={
            model: SizeShares(
                input_tokens_up_to=tuple(row.input_tokens_up_to for row in shares),
                rows=tuple(
                    tuple(row.weights.get(name, 0) / WEIGHT_SUM for name in names) for row in shares
                ),
            )
        },
    )


def _pool(plan: FleetPlan, row: PlannedReplicas) -> ReplicaPool:
    speed = planned_speed(plan, row)
    return ReplicaPool(
        name=row.offer,
        market=row.market,
        num_replicas=row.replicas,
        step_times=speed.step_times,
        kv_capacity_tokens=speed.kv_capacity_tokens,
        max_sequences=speed.max_sequences,
        max_batched_tokens=speed.max_batched_tokens,
        request_overhead_seconds=speed.request_overhead_seconds,
    )


def planned_speed(plan: FleetPlan, row: PlannedReplicas) -> ReplicaSpeed:
    """Return the speed of a planned replica, from what the plan itself carries.

    Raises:
        UnverifiableError: If the plan does not carry it.
    """
    if row.speed == "stated":
        raise UnverifiableError(f"{row.offer} states a throughput, which cannot be replayed")
    if row.speed == "profile":
        return _fitted_speed(row)
    return _modelled_speed(plan, row)


def _fitted_speed(row: PlannedReplicas) -> ReplicaSpeed:
    if row.fitted is None:
        raise UnverifiableError(
            f"the profile of {row.offer} holds no step times, so it cannot be replayed; measure one "
            "with `motley plan profile URL`"
        )
    fitted = row.fitted
    return ReplicaSpeed(
        step_times=FittedStepTimes(
            fitted.knots,
            fitted.base_seconds,
            fitted.decode_context_token_seconds,
            fitted.prefill_token_seconds,
            fitted.prefill_pair_seconds,
            fitted.mixed_seconds,
        ),
        kv_capacity_tokens=fitted.kv_capacity_tokens,
        max_context_tokens=fitted.max_context_tokens,
        max_sequences=row.max_sequences,
        max_batched_tokens=row.max_batched_tokens,
        request_overhead_seconds=fitted.request_overhead_seconds,
    )


def _modelled_speed(plan: FleetPlan, row: PlannedReplicas) -> ReplicaSpeed:
    gpus = {gpu.name: gpu for gpu in plan.gpus}
    sets = {entry.name: entry for entry in plan.coefficients}
    spec = plan.model_specs.get(row.model)
    if row.gpu not in gpus or row.coefficients not in sets or spec is None:
        raise UnverifiableError(
            f"the plan lacks the device, model or coefficients of {row.offer}; plan again"
        )
    context = row.max_context_tokens or spec.max_context_tokens
    design = ReplicaDesign(
        gpu=gpus[row.gpu],
        model=spec.model_copy(update={"max_context_tokens": min(context, spec.max_context_tokens)}),
        tensor_parallel=row.tensor_parallel,
        pipeline_parallel=row.pipeline_parallel,
        weight_dtype=row.weight_dtype or "bfloat16",
        kv_dtype=row.kv_dtype or "bfloat16",
        memory_fraction=row.memory_fraction,
        max_sequences=row.max_sequences,
        max_batched_tokens=row.max_batched_tokens,
    )
    speed = replica_speed(design, sets[row.coefficients])
    if isinstance(speed, Obstacle):
        raise UnverifiableError(f"{row.offer} cannot run: {speed.text}")
    return speed
