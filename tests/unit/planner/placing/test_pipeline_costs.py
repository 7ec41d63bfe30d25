"""What a stage costs, against figures worked out by hand."""

import pytest
from placing_clusters import cluster, island, small_model

from planner.errors import UnknownNameError
from planner.hardware.catalogue import built_in_catalogue
from planner.placing.links import group_link, worst_link
from planner.placing.pipeline_costs import pipeline_costs
from planner.placing.training_step import Degrees, TrainingStep
from planner.training.device_speed import COMPUTE_FRACTION, island_flops_per_second

STEP = TrainingStep(small_model(), sequence_tokens=1024, sequences_per_batch=16)
TWO = cluster(island("a", num_nodes=2, devices_per_node=2), island("b", devices_per_node=4))


def costs_of(degrees: Degrees, *stages: range, step: TrainingStep = STEP):
    """Return costs on devices of a million million operations a second."""
    return pipeline_costs(TWO, (1e12, 0.5e12), step, degrees, [tuple(ranks) for ranks in stages])


def test_links_are_the_nodes_the_islands_or_ethernet() -> None:
    """A group has the slowest link it needs, and RDMA never crosses islands."""
    assert group_link(TWO, (0,)).name == "none"
    assert group_link(TWO, (0, 1)).name == "node"
    within = group_link(TWO, (1, 2))
    assert (within.name, within.bytes_per_second) == ("infiniband", 25e9)
    across = group_link(TWO, (3, 4))
    assert (across.name, across.bytes_per_second) == ("ethernet", 1.25e9)
    assert across.latency_seconds == 5e-5
    assert worst_link(TWO, [(0, 1), (1, 2)]).name == "infiniband"


def test_arithmetic_and_backward_twice() -> None:
    """Two operations a parameter and token, and attention to half of all pairs."""
    (stage,) = costs_of(Degrees(1, 1, 1), range(1)).stages
    a_layer = (2 * 144e6 / 12) * 1024 + 2 * 2048 * 1024**2 / 2
    assert stage.forward_seconds.a_layer == pytest.approx(a_layer / 1e12)
    assert stage.backward_seconds.a_layer == pytest.approx(2 * a_layer / 1e12)
    assert stage.forward_seconds.at_ends == pytest.approx(2 * 32_000 * 1024 * 1024 / 1e12)


def test_tensor_groups_add_up_twice_a_layer_and_way() -> None:
    """A ring over two moves what the residual stream holds once, on the node's link."""
    alone = costs_of(Degrees(1, 1, 1), range(1)).stages[0]
    shared = costs_of(Degrees(2, 1, 1), range(2)).stages[0]
    reduce = 2 * 1 / 2 * 1024 * 1024 * 2 / 300e9
    assert shared.forward_seconds.a_layer == pytest.approx(
        alone.forward_seconds.a_layer / 2 + 2 * reduce
    )
    assert shared.tensor_link.name == "node"


def test_context_groups_pass_keys_and_values_around() -> None:
    """Each device sees the other half of the sequence once forward, twice with gradients."""
    alone = costs_of(Degrees(1, 1, 1), range(1)).stages[0]
    shared = costs_of(Degrees(1, 2, 1), range(2)).stages[0]
    around = 512 * 1024 * 2 / 300e9
    assert shared.forward_seconds.a_layer == pytest.approx(
        alone.forward_seconds.a_layer / 2 + around
    )
    assert shared.backward_seconds.a_layer == pytest.approx(
        alone.forward_seconds.a_layer + 2 * around
    )


def test_gradients_go_round_a_ring_of_all_copies() -> None:
    """2 (g - 1) / g of the stage's 16-bit gradients on the island's network, with its latency."""
    (stage,) = costs_of(Degrees(1, 2, 2), range(4)).stages
    parameters = 144e6 + 2 * 32_000 * 1024
    seconds = 2 * 3 / 4 * parameters * 2 / 25e9 + 6 * 5e-6
    assert stage.gradient_seconds.at(12) == pytest.approx(seconds)
    assert stage.data_link.name == "infiniband"


def test_memory_is_states_and_the_activations_in_flight() -> None:
    """The first of two stages keeps two micro-batches, the last one and the head's scores."""
    first, last = costs_of(Degrees(2, 1, 1), range(2), range(2, 4)).stages
    states, kept = 16 * 12e6 / 2, 34 * 1024 * 1024 / 2
    assert first.memory_bytes.a_layer == pytest.approx(states + 2 * kept)
    assert last.memory_bytes.a_layer == pytest.approx(states + kept)
    table = 16 * 32_000 * 1024 / 2
    assert first.memory_bytes.at_ends == pytest.approx(table)
    assert last.memory_bytes.at_ends == pytest.approx(table + 4 * 32_000 * 1024 / 2)


def test_a_boundary_between_islands_is_ethernet() -> None:
    """One micro-batch's residual stream, shared by the tensor group's links."""
    costs = costs_of(Degrees(2, 1, 1), range(2, 4), range(4, 6))
    (boundary,) = costs.boundaries()
    assert boundary.busy_seconds == pytest.approx(1024 * 1024 * 2 / 2 / 1.25e9)
    assert boundary.latency_seconds == 5e-5
    assert costs.stages[1].forward_seconds.a_layer > costs.stages[0].forward_seconds.a_layer


def test_a_tied_table_is_held_at_both_ends_and_exchanged() -> None:
    """Alone it is held once; cut in two it costs a ring of two over the link between the ends."""
    tied = TrainingStep(small_model(is_embedding_tied=True), 1024, 16)
    assert tied.table_parameters(0, 1) == 32_000 * 1024
    assert tied.table_parameters(0, 2) == tied.table_parameters(1, 2) == 32_000 * 1024
    costs = costs_of(Degrees(1, 1, 1), range(3, 4), range(4, 5), step=tied)
    assert costs.table_seconds == pytest.approx(32_000 * 1024 * 2 / 1.25e9 + 2 * 5e-5)


def test_a_stage_is_as_fast_as_its_slowest_device_and_holds_what_its_smallest_does() -> None:
    """Plain rank order puts unlike devices together."""
    mixed = costs_of(Degrees(1, 1, 4), range(2, 6)).stages[0]
    slow = costs_of(Degrees(1, 1, 4), range(4, 8)).stages[0]
    assert mixed.forward_seconds == slow.forward_seconds
    assert mixed.data_link.name == "ethernet"


def test_relative_speeds_are_of_the_device_of_speed_one() -> None:
    """The catalogue says how fast that one is; the file how the others compare."""
    mixed = cluster(
        island("slow", device="L40S", relative_speed=0.5), island("fast", device="A100-80GB")
    )
    speeds = island_flops_per_second(mixed, built_in_catalogue())
    assert speeds == pytest.approx((0.5 * 312e12 * COMPUTE_FRACTION, 312e12 * COMPUTE_FRACTION))


def test_a_device_that_is_not_listed_borrows_from_one_that_is() -> None:
    """One listed island is enough; without any, one line names what is missing."""
    catalogue = built_in_catalogue()
    half = cluster(island("own", device="own-chip"), island("b", relative_speed=2.0))
    assert island_flops_per_second(half, catalogue)[0] == pytest.approx(
        312e12 * COMPUTE_FRACTION / 2
    )
    with pytest.raises(UnknownNameError, match="no device is called own-chip"):
        island_flops_per_second(cluster(island("own", device="own-chip")), catalogue)


def test_devices_without_bfloat16_count_what_they_have() -> None:
    """A T4 multiplies in float16."""
    (speed,) = island_flops_per_second(cluster(island("t", device="T4")), built_in_catalogue())
    spec = built_in_catalogue().gpu("T4")
    assert speed == pytest.approx(spec.dense_flops_per_second["float16"] * COMPUTE_FRACTION)
