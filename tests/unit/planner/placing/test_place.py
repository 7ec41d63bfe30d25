"""Placements on random clusters, against every layout and every split of the layers."""

import random
from collections.abc import Iterator
from itertools import combinations, pairwise
from typing import Any

import pytest
from placing_clusters import cluster, island, small_model

from planner.errors import InfeasibleError
from planner.hardware.catalogue import built_in_catalogue
from planner.placing.layouts import Blocks, all_blocks, placed_stages, stage_degrees
from planner.placing.makespan import step_seconds
from planner.placing.pipeline_costs import pipeline_costs
from planner.placing.pipeline_simulator import simulate_step
from planner.placing.place import place
from planner.placing.search import Search
from planner.placing.stage_layers import proportional_layers
from planner.placing.training_step import TrainingStep
from planner.training.cluster import Cluster
from planner.training.device_speed import island_flops_per_second
from planner.training.placement import Placement

CATALOGUE = built_in_catalogue()


def placed(where: Cluster, *, tokens: int = 2048, batch: int = 32, **changes: Any) -> Placement:
    """Return the placement of the small model."""
    return place(
        where,
        small_model(**changes),
        sequence_tokens=tokens,
        sequences_per_batch=batch,
        catalogue=CATALOGUE,
    )


def random_cluster(chance: random.Random) -> Cluster:
    """Return one to three islands of unlike devices, networks and memory."""
    return cluster(
        *[
            island(
                f"i{number}",
                num_nodes=chance.randint(1, 2),
                devices_per_node=chance.choice([1, 2, 3, 4]),
                relative_speed=chance.choice([1.0, 0.8, chance.uniform(0.3, 2)]),
                memory_bytes=f"{chance.choice([2, 3, 6, 40])}GiB",
                nic=chance.choice(["infiniband", "roce", "ethernet"]),
                nic_bytes_per_second=chance.choice([1e9, 12e9, 25e9]),
            )
            for number in range(chance.randint(1, 3))
        ],
        ethernet=chance.choice([1e8, 1e9, 1e10]),
    )


@pytest.mark.parametrize("seed", range(30))
def test_the_rules_hold_on_random_clusters(seed: int) -> None:
    """Groups lie in their island, memory holds, layers are whole, prediction and play agree."""
    chance = random.Random(seed)
    where = random_cluster(chance)
    try:
        plan = placed(where, batch=chance.choice([8, 12, 64]))
    except InfeasibleError:
        return
    check(plan, where)


def check(plan: Placement, where: Cluster) -> None:
    """Assert what must hold of any placement."""
    unit = plan.tensor * plan.context * plan.data
    ranks = [rank for stage in plan.stages for rank in stage.ranks]
    assert sorted([*ranks, *plan.idle_ranks]) == list(range(where.num_devices))
    assert len(plan.stages) == plan.pipeline
    assert sum(stage.num_layers for stage in plan.stages) == 12
    assert 16 % plan.tensor == 0
    for stage in plan.stages:
        assert len(stage.ranks) == unit
        assert {where.devices[rank].island for rank in stage.ranks} == {stage.island}
        assert stage.memory_bytes <= int(where.islands[stage.island].memory_bytes)
        for start in range(0, unit, plan.tensor):
            group = stage.ranks[start : start + plan.tensor]
            assert len({where.devices[rank].node for rank in group}) == 1
    order = [stage.island for stage in plan.stages]
    starts = [here for before, here in zip([-1, *order], order, strict=False) if here != before]
    assert len(starts) == len(set(starts))
    assert plan.simulated_seconds is not None
    assert plan.predicted_seconds == pytest.approx(plan.simulated_seconds, rel=0.05)
    assert all(". " not in reason for reason in plan.reasons)


@pytest.mark.parametrize("seed", range(12))
def test_pruning_loses_nothing(seed: int) -> None:
    """The search finds what weighing every choice of blocks finds."""
    search, choices = small_search(random.Random(100 + seed))
    every = [found for blocks in choices if (found := search.weigh(blocks)) is not None]
    best = search.best()
    if not every:
        assert best is None
        return
    assert best is not None
    assert best.seconds == min(each.seconds for each in every)


@pytest.mark.parametrize("seed", range(20))
def test_no_step_is_slower_than_with_the_published_layers(seed: int) -> None:
    """On random clusters, for every choice of blocks whose stages hold the published split."""
    search, choices = small_search(random.Random(300 + seed))
    for blocks in choices:
        found = search.weigh(blocks)
        if found is None:
            continue
        speeds = [1 / stage.seconds.a_layer for stage in found.costs.stages]
        published = proportional_layers(6, speeds)
        if found.costs.holds(published):
            assert found.seconds <= step_seconds(found.costs.pipeline(published))


@pytest.mark.parametrize("seed", range(12))
def test_hardly_any_layout_and_split_is_faster(seed: int) -> None:
    """Against all choices of blocks and all splits of the layers, each played: within 3 %."""
    search, choices = small_search(random.Random(200 + seed))
    best = search.best()
    fastest = min(
        (
            simulate_step(costs.pipeline(split))
            for blocks in choices
            for costs in [
                pipeline_costs(
                    search.cluster,
                    search.flops_per_second,
                    search.step,
                    blocks.degrees,
                    placed_stages(search.cluster, blocks),
                )
            ]
            for split in every_split(6, blocks.num_stages)
            if costs.holds(split)
        ),
        default=None,
    )
    assert (best is None) == (fastest is None)
    if best is not None and fastest is not None:
        assert fastest * (1 - 1e-9) <= best.seconds <= fastest * 1.03


def small_search(chance: random.Random) -> tuple[Search, list[Blocks]]:
    """Return a search over few devices and six layers, and all its choices."""
    where = cluster(
        *[
            island(
                f"i{number}",
                devices_per_node=chance.randint(1, 4),
                relative_speed=chance.choice([1.0, 0.8, 0.5]),
                memory_bytes=f"{chance.choice([2, 3, 40])}GiB",
            )
            for number in range(2)
        ],
        ethernet=chance.choice([1e8, 1e9]),
    )
    step = TrainingStep(small_model(num_layers=6), 1024, chance.choice([4, 12]))
    search = Search(where, island_flops_per_second(where, CATALOGUE), step)
    choices = [
        blocks
        for degrees in stage_degrees(where, step, most_devices=4)
        for blocks in all_blocks(where, degrees, most_stages=6)
    ]
    return search, choices


def every_split(num_layers: int, num_stages: int) -> Iterator[tuple[int, ...]]:
    """Yield every way to share layers out, each stage at least one."""
    for cuts in combinations(range(1, num_layers), num_stages - 1):
        ends = (0, *cuts, num_layers)
        yield tuple(b - a for a, b in pairwise(ends))


def test_plain_order_sends_gradients_over_ethernet() -> None:
    """Islands of six and two devices: plain stages straddle them, ours do not, and it says so."""
    where = cluster(
        island("a", num_nodes=3, devices_per_node=2),
        island("b", num_nodes=1, devices_per_node=2, nic="roce"),
        ethernet=1e8,
    )
    plan = placed(where, layer_parameters=12 * 60_000_000)
    assert "ethernet" not in {stage.data_link for stage in plan.stages}
    assert plan.best_naive is None or plan.predicted_seconds <= plan.best_naive.predicted_seconds


def test_slower_islands_hold_fewer_layers() -> None:
    """Two islands at 197 and 160: layers follow the speed, and equal ones are slower."""
    where = cluster(
        island("a", devices_per_node=4, memory_bytes="6GiB"),
        island("b", devices_per_node=4, memory_bytes="6GiB", relative_speed=160 / 197, nic="roce"),
    )
    plan = placed(where, num_layers=48, layer_parameters=48 * 12_000_000, batch=64)
    by_island = [
        sum(stage.num_layers for stage in plan.stages if stage.island == number)
        for number in range(2)
    ]
    assert by_island[0] > by_island[1] > 0
    assert plan.naive_seconds is None or plan.naive_seconds > plan.predicted_seconds
    assert any("only the pipeline crosses" in reason for reason in plan.reasons)


def test_islands_of_one_device() -> None:
    """Three lone devices make three stages, or fewer with the rest idle."""
    where = cluster(*[island(f"i{n}", devices_per_node=1, memory_bytes="2GiB") for n in range(3)])
    plan = placed(where)
    assert (plan.tensor, plan.data, plan.pipeline) == (1, 1, 3)
    assert {stage.next_link for stage in plan.stages[:-1]} == {"ethernet"}


def test_one_island_may_do_without_a_pipeline() -> None:
    """Copies of a small model need no stages; there is nothing to cross."""
    plan = placed(cluster(island("a")), batch=64)
    assert plan.pipeline == 1
    assert plan.stages[0].next_link == "none"
    assert not any("only the pipeline" in reason for reason in plan.reasons)


def test_heads_forbid_tensor_degrees() -> None:
    """Of five heads two devices cannot take as many each."""
    where = cluster(island("a", devices_per_node=4))
    assert placed(where, num_attention_heads=5, num_key_value_heads=5).tensor == 1


def test_a_sequence_that_devices_cannot_share_is_not_shared() -> None:
    """Tensor groups take equal pieces of it, context groups two each."""
    step = TrainingStep(small_model(), 1002, 4)
    degrees = list(stage_degrees(cluster(island("a")), step, most_devices=8))
    assert {each.tensor for each in degrees} == {1, 2}
    assert {each.context for each in degrees} == {1}


def test_sequences_are_padded_so_that_they_can_be_shared() -> None:
    """A longest sequence of odd length forbids nothing."""
    assert placed(cluster(island("a")), tokens=1001).sequence_tokens == 1024


def test_too_little_memory_names_what_is_needed() -> None:
    """One line: the nearest degrees, what they need, what there is, what would help."""
    where = cluster(island("a", devices_per_node=2, memory_bytes="256MiB"))
    with pytest.raises(InfeasibleError) as caught:
        placed(where)
    message = str(caught.value)
    assert "fits on no placement" in message
    assert "GiB on a device of island a, which may fill 0.2 GiB" in message
    assert "give more devices or memory, or shorter sequences" in message
    assert "\n" not in message


def test_leftover_devices_are_told() -> None:
    """A batch of 2 takes two copies of a stage at most; the third device of three is idle."""
    where = cluster(island("a", devices_per_node=3))
    plan = placed(where, batch=2, tokens=1001, num_layers=1, layer_parameters=12_000_000)
    assert len(plan.idle_ranks) == 1
    assert any("1 of island a's 3 devices are idle" in reason for reason in plan.reasons)


def test_unlike_devices_of_one_speed_are_told() -> None:
    """Speeds are the file's to say; saying nothing is not silent."""
    where = cluster(island("a"), island("b", device="L40S"))
    assert any("set it by what was measured" in reason for reason in placed(where).reasons)


def test_a_batch_of_part_micro_batches_is_refused() -> None:
    """The caller chose both."""
    with pytest.raises(ValueError, match="is no multiple of micro_batch_sequences 3"):
        place(
            cluster(island("a")),
            small_model(),
            sequence_tokens=1024,
            sequences_per_batch=32,
            micro_batch_sequences=3,
            catalogue=CATALOGUE,
        )


def test_many_islands_are_placed_too() -> None:
    """A dozen islands would be thousands of choices for each degrees; some are left out."""
    where = cluster(*[island(f"i{n}", devices_per_node=2) for n in range(12)])
    check(placed(where, batch=24), where)
