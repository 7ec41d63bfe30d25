"""A placed training plan as nodes, processes and ranks: what every training target renders.

Ranks of the job follow the pipeline: stage by stage, in it copies, context groups, tensor groups. That
is how Megatron-LM (`tp-cp-ep-dp-pp`) and torchtitan (`pp, dp, cp, tp`) count them.
"""

import re
from dataclasses import dataclass

from planner.errors import RenderError
from planner.training.cluster import Cluster, Island
from planner.training.placement import Placement
from planner.training.training_plan import TrainingPlan


@dataclass(frozen=True, slots=True)
class JobRank:
    """One process of the job."""

    rank: int
    """In the job."""
    local_rank: int
    """On its node."""
    device: int
    """Rank of the device in the plan's cluster."""
    stage: int
    data: int
    context: int
    tensor: int


@dataclass(frozen=True, slots=True)
class JobNode:
    """One node of the job."""

    node_rank: int
    """In the job."""
    island: int
    number: int
    """In its island."""
    devices: tuple[int, ...]
    """Indices of its devices that are used."""
    ranks: tuple[JobRank, ...]


@dataclass(frozen=True)
class TrainingJob:
    """A plan with its placement, node by node."""

    plan: TrainingPlan
    placement: Placement
    nodes: tuple[JobNode, ...]
    """In the order of their ranks."""

    @property
    def cluster(self) -> Cluster:
        """Where it runs."""
        return self.plan.cluster

    @property
    def islands(self) -> tuple[int, ...]:
        """Islands with stages, in the order of the pipeline."""
        return tuple(dict.fromkeys(node.island for node in self.nodes))

    @property
    def crosses_islands(self) -> bool:
        """Whether the pipeline runs through several islands."""
        return len(self.islands) > 1

    @property
    def global_batch_sequences(self) -> int:
        """Sequences of one optimiser step."""
        placed = self.placement
        return placed.data * placed.num_micro_batches * placed.micro_batch_sequences

    def island(self, position: int) -> Island:
        """Return an island by its position in the cluster."""
        return self.cluster.islands[position]

    def island_nodes(self, position: int) -> tuple[JobNode, ...]:
        """Return the job's nodes in an island."""
        return tuple(node for node in self.nodes if node.island == position)

    def island_file(self, position: int) -> str:
        """Return an island's name as part of a file's, unique in the job."""
        return f"{position}-{re.sub(r'[^A-Za-z0-9._-]', '-', self.island(position).name)}"


def training_job(plan: TrainingPlan) -> TrainingJob:
    """Return the plan's placement as nodes of processes.

    Raises:
        RenderError: If there is no placement, or it does not fit the plan's cluster and degrees.
    """
    placement = plan.placement
    if placement is None:
        raise RenderError("the plan has no placement; plan again with `--place`")
    _check(plan, placement)
    by_node: dict[int, list[JobRank]] = {}
    order: list[int] = []
    for each in _ranks(placement):
        node = plan.cluster.devices[each.device].node
        if not order or order[-1] != node:
            order.append(node)
        local = by_node.setdefault(node, [])
        local.append(
            JobRank(
                each.rank,
                len(local),
                each.device,
                each.stage,
                each.data,
                each.context,
                each.tensor,
            )
        )
    if len(set(order)) < len(order):
        raise RenderError(
            "the placement's stages come back to a node, so that its ranks are not in a row; plan "
            "again with `--place`"
        )
    nodes = [_node(plan.cluster, rank, node, by_node[node]) for rank, node in enumerate(order)]
    return TrainingJob(plan, placement, tuple(nodes))


def _ranks(placement: Placement) -> list[JobRank]:
    size = placement.tensor * placement.context * placement.data
    found = []
    for number, stage in enumerate(placement.stages):
        for index, device in enumerate(stage.ranks):
            copy, tensor = divmod(index, placement.tensor)
            data, context = divmod(copy, placement.context)
            found.append(JobRank(number * size + index, 0, device, number, data, context, tensor))
    return found


def _node(cluster: Cluster, node_rank: int, node: int, ranks: list[JobRank]) -> JobNode:
    island = cluster.devices[ranks[0].device].island
    first = next(device for device in cluster.devices if device.node == node).rank
    first_node = next(device for device in cluster.devices if device.island == island).node
    devices = tuple(each.device - first for each in ranks)
    return JobNode(node_rank, island, node - first_node, devices, tuple(ranks))


def _check(plan: TrainingPlan, placement: Placement) -> None:
    """Refuse documents that no planner wrote, before they become commands."""
    size = placement.tensor * placement.context * placement.data
    ranks = [rank for stage in placement.stages for rank in stage.ranks]
    problem = None
    if len(placement.stages) != placement.pipeline:
        problem = f"{len(placement.stages)} stages at pipeline degree {placement.pipeline}"
    elif any(len(stage.ranks) != size for stage in placement.stages):
        problem = f"a stage of other than tensor x context x data = {size} ranks"
    elif len(set(ranks)) < len(ranks):
        problem = "a rank in two places"
    elif max(ranks) >= plan.cluster.num_devices:
        problem = f"rank {max(ranks)} in a cluster of {plan.cluster.num_devices} devices"
    elif odd := [
        number
        for number, stage in enumerate(placement.stages)
        if any(plan.cluster.devices[rank].island != stage.island for rank in stage.ranks)
    ]:
        problem = f"stage {odd[0]} on another island than its ranks"
    elif sum(stage.num_layers for stage in placement.stages) != plan.costs.num_layers:
        layers = sum(stage.num_layers for stage in placement.stages)
        problem = f"{layers} layers of a model of {plan.costs.num_layers}"
    if problem is not None:
        raise RenderError(f"the placement has {problem}; plan again with `--place`")
