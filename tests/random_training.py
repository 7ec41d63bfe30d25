"""Random tiny clusters, costs and batches, on which every plan can be tried; and checked plans."""

import random
from collections.abc import Sequence
from typing import Any

from training_fleets import cluster, costs

from planner.training.cluster import Island
from planner.training.group_kinds import group_kinds, most_tokens
from planner.training.plan_groups import GroupsAnswer, plan_groups
from planner.training.sequence_costs import ModelStates, TrainingFleet
from planner.training.training_plan import BatchPlan
from planner.training.verify_plan import verify_batch

MOST_DEVICES = 6
MOST_SEQUENCES = 6


def random_batch(seed: int, *, is_mixed: bool) -> tuple[list[int], TrainingFleet]:
    """Return lengths and a fleet of up to six devices that holds the longest.

    Heads forbid some degrees, memory forces some batches into several micro-batches, and nodes of
    three devices make groups straddle.
    """
    generator = random.Random(seed)
    while True:
        fleet = _random_fleet(generator, is_mixed)
        most = most_tokens(group_kinds(fleet))
        if most:
            number = generator.randint(1, MOST_SEQUENCES)
            if generator.random() < 0.2:
                return [min(most, 700)] * number, fleet
            return [generator.randint(1, min(most, 4000)) for _ in range(number)], fleet


def _random_fleet(generator: random.Random, is_mixed: bool) -> TrainingFleet:
    left, islands = generator.randint(1, MOST_DEVICES), []
    while left and (is_mixed or not islands):
        per_node = generator.randint(1, left)
        num_nodes = generator.randint(1, left // per_node)
        left -= per_node * num_nodes
        link = 10 ** generator.uniform(9, 11)
        islands.append(
            Island(
                name=f"island-{len(islands)}",
                num_nodes=num_nodes,
                devices_per_node=per_node,
                device="toy",
                memory_bytes=int(generator.uniform(1600, 4000)),
                relative_speed=generator.choice([1, 1, 0.5, 0.7, 2.2]),
                node_bytes_per_second=link,
                nic_bytes_per_second=link * generator.choice([1, 0.3, 0.05]),
            )
        )
    heads = generator.choice([2, 4, 6, 12, 28])
    changes: dict[str, Any] = {
        "attention_seconds_per_token_squared": 10 ** generator.uniform(-8, -6),
        "linear_seconds_per_token": 1e-3 * generator.uniform(0.1, 1),
        "micro_batch_seconds": generator.choice([0.0, 0.05, 0.3, 1.0]),
        "model_states": (ModelStates(max_tokens=4096, num_bytes=1000.0),),
        "num_layers": generator.choice([1, 2, 32]),
        "num_query_heads": heads,
        "num_key_value_heads": generator.choice([1, 2, heads]),
        "head_size": 64,
        "all_to_all_bytes_per_second": generator.choice([{}, {2: 3e10, 4: 2e10, 8: 1e9}]),
    }
    between = 10 ** generator.uniform(8, 10.5)
    return TrainingFleet(cluster(*islands, between=between), costs(**changes), 4096)


def verified(lengths: Sequence[int], fleet: TrainingFleet, **options: Any) -> GroupsAnswer:
    """Return the plan of a batch, checked by the independent verifier."""
    answer = plan_groups(lengths, fleet, **options)
    verify_batch(
        batch_plan(lengths, answer),
        cluster=fleet.cluster,
        costs=fleet.costs,
        max_tokens=fleet.max_tokens,
        ignores_heads=fleet.ignores_heads,
    )
    return answer


def batch_plan(lengths: Sequence[int], answer: GroupsAnswer) -> BatchPlan:
    """Return the answer as the document has it."""
    return BatchPlan(
        lengths=tuple(lengths),
        micro_batches=answer.micro_batches,
        predicted_seconds=answer.predicted_seconds,
        lower_bound_seconds=answer.lower_bound_seconds,
        solver=answer.solver,
        planning_seconds=0.0,
        static=None,
        homogeneous=None,
    )
