"""The independent check of a batch's plan: what is right passes, every broken rule is named."""

import pytest
from random_training import batch_plan
from training_fleets import fleet, island

from planner.errors import BrokenPlanError
from planner.training.plan_groups import plan_groups
from planner.training.training_plan import BatchPlan, MicroBatch, SequenceGroup
from planner.training.verify_plan import verify_batch

LENGTHS = (1500, 900, 300, 300, 800)
FLEET = fleet(island(num_nodes=2))


def check(plan: BatchPlan, **changes: object) -> None:
    """Verify against the fleet that it was planned on, or a changed one."""
    verify_batch(
        plan,
        cluster=changes.get("cluster", FLEET.cluster),
        costs=changes.get("costs", FLEET.costs),
        max_tokens=FLEET.max_tokens,
        ignores_heads=bool(changes.get("ignores_heads", False)),
    )


def planned() -> BatchPlan:
    """Return a plan that keeps every rule."""
    return batch_plan(LENGTHS, plan_groups(LENGTHS, FLEET))


def with_group(plan: BatchPlan, position: int, **changes: object) -> BatchPlan:
    """Return the plan with one group of its first micro-batch changed."""
    groups = list(plan.micro_batches[0].groups)
    groups[position] = groups[position].model_copy(update=changes)
    first = MicroBatch(groups=tuple(groups))
    return plan.model_copy(update={"micro_batches": (first, *plan.micro_batches[1:])})


def single(ranks: tuple[int, ...], sequences: tuple[int, ...] = (0, 1, 2, 3, 4)) -> BatchPlan:
    """Return a plan of one group whose time is right."""
    seconds = FLEET.group_cost(ranks).seconds(LENGTHS[i] for i in sequences)
    group = SequenceGroup(ranks=ranks, sequences=sequences, predicted_seconds=seconds)
    return planned().model_copy(
        update={
            "micro_batches": (MicroBatch(groups=(group,)),),
            "predicted_seconds": seconds,
        }
    )


def test_a_plan_of_the_solver_passes():
    """Nothing is raised."""
    check(planned())


def test_a_rank_in_two_groups_is_found():
    """The message names the rank and both groups."""
    plan = planned()
    ranks = plan.micro_batches[0].groups[0].ranks
    with pytest.raises(BrokenPlanError, match=r"rank \d is in groups 0 and 1"):
        check(with_group(plan, 1, ranks=ranks))


def test_a_rank_beyond_the_cluster_is_found():
    """Eight devices have no rank 8."""
    with pytest.raises(BrokenPlanError, match="rank 8 of 8 devices"):
        check(with_group(planned(), 0, ranks=(8,)))


def test_a_sequence_beyond_the_batch_is_found():
    """Five sequences have no position 9."""
    with pytest.raises(BrokenPlanError, match="sequence 9 of 5 in the batch"):
        check(with_group(planned(), 0, sequences=(9,)))


def test_a_degree_that_does_not_divide_the_heads_is_found():
    """Four heads are not split over three devices."""
    with pytest.raises(BrokenPlanError, match="degree 3 does not divide 4 heads"):
        check(with_group(planned(), 0, ranks=(0, 1, 2)))


def test_a_degree_that_is_no_power_of_two_is_found_where_heads_are_ignored():
    """The published setting has powers of two alone."""
    with pytest.raises(BrokenPlanError, match="degree 3 is no power of two"):
        check(with_group(planned(), 0, ranks=(0, 1, 2)), ignores_heads=True)


def test_a_group_that_does_not_hold_its_tokens_is_found():
    """3,800 tokens do not fit into two devices of 1,000."""
    with pytest.raises(BrokenPlanError, match=r"3800 tokens on 2 devices.* hold 2000"):
        check(single((0, 1)))


def test_the_smallest_member_decides_memory():
    """A group of unlike devices holds what its smallest member holds, times the degree."""
    unlike = fleet(island(memory_bytes=3000), island("b", memory_bytes=900)).cluster
    plan = single((0, 1, 4, 5), sequences=(0, 1, 2, 3, 4))
    with pytest.raises(BrokenPlanError, match="the smallest of b, which hold 3600"):
        check(plan, cluster=unlike)


def test_a_time_that_the_costs_do_not_give_is_found():
    """Both times are told."""
    plan = planned()
    seconds = plan.micro_batches[0].groups[0].predicted_seconds
    with pytest.raises(BrokenPlanError, match=r"predicted .* s, the costs give .* s"):
        check(with_group(plan, 0, predicted_seconds=seconds * 0.999))


def test_a_sequence_left_out_or_trained_twice_is_found():
    """Each is counted."""
    with pytest.raises(BrokenPlanError, match="sequence 4 is in 0 groups"):
        check(single((0, 1, 2, 3), sequences=(0, 1, 2, 3)))
    with pytest.raises(BrokenPlanError, match="sequence 2 is in 2 groups"):
        check(single((0, 1, 2, 3), sequences=(0, 1, 2, 2, 4)))


def test_a_wrong_sum_and_a_bound_above_it_are_found():
    """The batch takes what its micro-batches take, and no less than the bound."""
    plan = planned()
    faster = plan.model_copy(update={"predicted_seconds": plan.predicted_seconds / 2})
    with pytest.raises(BrokenPlanError, match="its micro-batches take"):
        check(faster)
    higher = plan.model_copy(update={"lower_bound_seconds": plan.predicted_seconds * 2})
    with pytest.raises(BrokenPlanError, match=r"lower bound of .* is above"):
        check(higher)


@pytest.mark.parametrize("sharding", ["zero3", "zero2", "zero1", "none"])
@pytest.mark.parametrize("max_tokens", [500, 1500, 6000])
def test_states_between_and_beyond_points_are_derived_alike(sharding, max_tokens):
    """The planner's and the verifier's memory agree for every way of sharding."""
    costs = FLEET.costs.model_copy(
        update={
            "sharding": sharding,
            "model_states": (
                FLEET.costs.model_states[0].model_copy(update={"num_bytes": 200.0}),
                FLEET.costs.model_states[0].model_copy(
                    update={"max_tokens": 2000, "num_bytes": 300.0}
                ),
            ),
        }
    )
    states = costs.state_bytes(max_tokens=max_tokens, num_devices=8)
    lengths = [int(1000 - states)] * 8
    unlike = type(FLEET)(FLEET.cluster, costs, max_tokens)
    plan = batch_plan(lengths, plan_groups(lengths, unlike))
    verify_batch(
        plan, cluster=FLEET.cluster, costs=costs, max_tokens=max_tokens, ignores_heads=False
    )
