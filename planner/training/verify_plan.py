"""Checks a batch's plan against the cluster and the costs, without the code that made it.

Memory, rates and times are derived here once more from the documents alone; `GroupCost` and
`TrainingFleet` are not used.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner.errors import BrokenPlanError
from planner.training.cluster import Cluster, Island
from planner.training.sequence_costs import SequenceCosts
from planner.training.training_plan import BatchPlan, SequenceGroup

RELATIVE_TOLERANCE = 1e-9
"""Of times that are added up in another order."""
ROUNDING_TOKENS = 1e-9
"""Of what a device holds, where it holds a whole number exactly."""

_HELD_WHOLE = {"zero3": (0, 8), "zero2": (1, 7), "zero1": (2, 6), "none": (8, 0)}
"""Eighths of the states that every device holds, and eighths that are spread."""


def verify_batch(
    plan: BatchPlan,
    *,
    cluster: Cluster,
    costs: SequenceCosts,
    max_tokens: int,
    ignores_heads: bool,
) -> None:
    """Check one global batch.

    Args:
        plan: What was planned.
        cluster: Where it is to run.
        costs: By which costs it was planned.
        max_tokens: Longest sequence the model is made for.
        ignores_heads: Whether degrees need not divide the query heads.

    Raises:
        BrokenPlanError: At the first rule that is broken; it names the micro-batch and group.
    """
    seats = _seats(cluster)
    device_bytes = _state_bytes(costs, max_tokens=max_tokens, num_devices=len(seats))
    for rank, seat in enumerate(seats):
        if seat.island.memory_bytes < device_bytes:
            raise BrokenPlanError(
                f"rank {rank} holds {seat.island.memory_bytes} bytes and its share of the model's "
                f"states is {device_bytes:.0f}; plan without island {seat.island.name}"
            )
    for number, micro_batch in enumerate(plan.micro_batches):
        _check_ranks(f"micro-batch {number}", micro_batch.groups, len(seats))
        for position, group in enumerate(micro_batch.groups):
            where = f"micro-batch {number}, group {position}"
            lengths = _lengths(where, group, plan.lengths)
            _check_degree(where, len(group.ranks), costs, ignores_heads)
            members = [seats[rank] for rank in group.ranks]
            _check_memory(where, members, sum(lengths), costs, device_bytes)
            _check_group_seconds(where, group, lengths, members, cluster, costs)
    _check_sequences(plan)
    _check_sums(plan)


@dataclass(frozen=True, slots=True)
class _Seat:
    """Where one rank sits: its island, and its node among all of the cluster."""

    island: Island
    node: int


def _seats(cluster: Cluster) -> list[_Seat]:
    seats: list[_Seat] = []
    node = 0
    for island in cluster.islands:
        for _ in range(island.num_nodes):
            seats += [_Seat(island, node)] * island.devices_per_node
            node += 1
    return seats


def _check_ranks(where: str, groups: Sequence[SequenceGroup], num_devices: int) -> None:
    owner: dict[int, int] = {}
    for position, group in enumerate(groups):
        for rank in group.ranks:
            if rank >= num_devices:
                raise BrokenPlanError(
                    f"{where}, group {position}: rank {rank} of {num_devices} devices; plan again"
                )
            if rank in owner:
                raise BrokenPlanError(
                    f"{where}: rank {rank} is in groups {owner[rank]} and {position}; plan again"
                )
            owner[rank] = position


def _lengths(where: str, group: SequenceGroup, lengths: Sequence[int]) -> list[int]:
    for sequence in group.sequences:
        if sequence >= len(lengths):
            raise BrokenPlanError(
                f"{where}: sequence {sequence} of {len(lengths)} in the batch; plan again"
            )
    return [lengths[sequence] for sequence in group.sequences]


def _check_degree(where: str, degree: int, costs: SequenceCosts, ignores_heads: bool) -> None:
    if ignores_heads:
        if bin(degree).count("1") != 1:
            raise BrokenPlanError(f"{where}: degree {degree} is no power of two; plan again")
    elif costs.num_query_heads % degree:
        raise BrokenPlanError(
            f"{where}: degree {degree} does not divide {costs.num_query_heads} heads; plan again"
        )


def _check_memory(
    where: str,
    members: Sequence[_Seat],
    tokens: int,
    costs: SequenceCosts,
    device_bytes: float,
) -> None:
    smallest = min((seat.island for seat in members), key=lambda island: island.memory_bytes)
    # Whole tokens a device, as every sequence is spread over the group equally.
    tokens_a_device = (smallest.memory_bytes - device_bytes) / costs.activation_bytes_per_token
    held = len(members) * max(0, math.floor(tokens_a_device + ROUNDING_TOKENS))
    if tokens > held:
        raise BrokenPlanError(
            f"{where}: {tokens} tokens on {len(members)} devices, the smallest of "
            f"{smallest.name}, which hold {held}; plan again"
        )


def _check_group_seconds(
    where: str,
    group: SequenceGroup,
    lengths: Sequence[int],
    members: Sequence[_Seat],
    cluster: Cluster,
    costs: SequenceCosts,
) -> None:
    degree = len(members)
    slowest = min(seat.island.relative_speed for seat in members)
    attention = costs.attention_seconds_per_token_squared * sum(s * s for s in lengths)
    linear = costs.linear_seconds_per_token * sum(lengths)
    seconds = (attention + linear) / degree / slowest + costs.micro_batch_seconds
    if degree > 1:
        rate = min(_measured_rate(costs, degree), _link(members, cluster))
        seconds += _exchanged_bytes(costs, degree) * sum(lengths) / degree / rate
    if not math.isclose(seconds, group.predicted_seconds, rel_tol=RELATIVE_TOLERANCE):
        raise BrokenPlanError(
            f"{where}: predicted {group.predicted_seconds:.9g} s, the costs give {seconds:.9g} s; "
            "plan again"
        )


def _check_sequences(plan: BatchPlan) -> None:
    times = [0] * len(plan.lengths)
    for micro_batch in plan.micro_batches:
        for group in micro_batch.groups:
            for sequence in group.sequences:
                times[sequence] += 1
    for sequence, count in enumerate(times):
        if count != 1:
            raise BrokenPlanError(f"sequence {sequence} is in {count} groups; plan again")


def _check_sums(plan: BatchPlan) -> None:
    seconds = math.fsum(
        max(group.predicted_seconds for group in micro_batch.groups)
        for micro_batch in plan.micro_batches
    )
    if not math.isclose(seconds, plan.predicted_seconds, rel_tol=RELATIVE_TOLERANCE):
        raise BrokenPlanError(
            f"the batch is predicted {plan.predicted_seconds:.9g} s, its micro-batches take "
            f"{seconds:.9g} s; plan again"
        )
    if plan.lower_bound_seconds > plan.predicted_seconds * (1 + RELATIVE_TOLERANCE):
        raise BrokenPlanError(
            f"the lower bound of {plan.lower_bound_seconds:.9g} s is above the plan's "
            f"{plan.predicted_seconds:.9g} s; plan again"
        )


def _state_bytes(costs: SequenceCosts, *, max_tokens: int, num_devices: int) -> float:
    points = [(p.max_tokens, p.num_bytes) for p in costs.model_states]
    total = points[0][1]
    # Beyond the first and the last point their nearest line goes on.
    for (left, low), (right, high) in itertools.pairwise(points):
        total = max(0.0, low + (max_tokens - left) / (right - left) * (high - low))
        if max_tokens <= right:
            break
    whole, spread = _HELD_WHOLE[costs.sharding]
    return total * (whole / 8 + spread / 8 / num_devices)


def _exchanged_bytes(costs: SequenceCosts, degree: int) -> float:
    """Return the bytes a token: queries, keys, values, output, forward and backward."""
    is_runnable = costs.num_query_heads % degree == 0  # else published: nothing is copied
    copies = math.lcm(costs.num_key_value_heads, degree if is_runnable else 1)
    values = (costs.num_query_heads + copies + copies + costs.num_query_heads) * costs.head_size
    return 2.0 * costs.num_layers * values * costs.exchanged_bytes_per_value


def _measured_rate(costs: SequenceCosts, degree: int) -> float:
    rates = sorted(costs.all_to_all_bytes_per_second.items())
    for measured, rate in rates:
        if measured >= degree:
            return rate
    return rates[-1][1] if rates else math.inf


def _link(members: Sequence[_Seat], cluster: Cluster) -> float:
    """Return the slowest link on any way between two of the members."""
    used = {seat.island.name: seat.island for seat in members}
    rates = [island.node_bytes_per_second for island in used.values()]
    if len({seat.node for seat in members}) > 1:
        rates += [island.nic_bytes_per_second for island in used.values()]
    if len(used) > 1:
        rates.append(cluster.between_islands_bytes_per_second or math.inf)
    return min(rates)
