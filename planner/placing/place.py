"""The placement of a model on a cluster: found, compared with plain rank order, and explained."""

import math

from planner.errors import InfeasibleError
from planner.hardware.catalogue import Catalogue
from planner.hardware.model_spec import ModelSpec
from planner.placing.links import Link
from planner.placing.pipeline_simulator import simulate_step
from planner.placing.reasons import reasons
from planner.placing.search import Search, Weighed
from planner.placing.training_step import TrainingStep
from planner.training.cluster import Cluster
from planner.training.device_speed import island_flops_per_second
from planner.training.placement import Placement, PlainOrder, Stage

GIB = 2**30

PADDING_TOKENS = 128
"""Sequences are padded to a multiple of it, so that up to 64 devices can share one in two pieces."""


def place(
    cluster: Cluster,
    model: ModelSpec,
    *,
    sequence_tokens: int,
    sequences_per_batch: int,
    catalogue: Catalogue,
    micro_batch_sequences: int = 1,
) -> Placement:
    """Return the fastest placement of a model's layers, after Holmes (arXiv 2312.03549).

    Tensor groups lie in a node, tensor, context and data groups in an island, and only the pipeline
    crosses islands. Devices that make no whole stage are idle.

    Args:
        cluster: Islands of devices.
        model: What is trained.
        sequence_tokens: Tokens of every sequence; padded to a multiple of 128.
        sequences_per_batch: Sequences of one optimiser step.
        catalogue: Where the devices' arithmetic stands.
        micro_batch_sequences: Sequences of one micro-batch.

    Raises:
        InfeasibleError: If no placement fits in memory.
        UnknownNameError: If the catalogue lists no island's device.
        ValueError: If the batch is not of whole micro-batches.
    """
    if sequences_per_batch < 1 or sequences_per_batch % micro_batch_sequences:
        raise ValueError(
            f"sequences_per_batch: {sequences_per_batch} is no multiple of micro_batch_sequences "
            f"{micro_batch_sequences}; change one"
        )
    padded_tokens = math.ceil(sequence_tokens / PADDING_TOKENS) * PADDING_TOKENS
    step = TrainingStep(model, padded_tokens, sequences_per_batch, micro_batch_sequences)
    search = Search(cluster, island_flops_per_second(cluster, catalogue), step)
    best = search.best()
    if best is None:
        raise InfeasibleError(_too_large(search))
    naive = search.plain(best.costs.degrees, len(best.stages))
    best_naive = search.best_plain()
    return _document(search, best, naive, best_naive)


def _document(
    search: Search, best: Weighed, naive: Weighed | None, best_naive: Weighed | None
) -> Placement:
    degrees, cluster = best.costs.degrees, search.cluster
    used = {rank for ranks in best.stages for rank in ranks}
    return Placement(
        tensor=degrees.tensor,
        context=degrees.context,
        pipeline=len(best.stages),
        data=degrees.data,
        sequence_tokens=search.step.sequence_tokens,
        micro_batch_sequences=search.step.micro_batch_sequences,
        num_micro_batches=best.costs.num_micro_batches,
        stages=_stages(cluster, best),
        predicted_seconds=best.seconds,
        simulated_seconds=simulate_step(best.costs.pipeline(best.layers)),
        naive_seconds=None if naive is None else naive.seconds,
        best_naive=None if best_naive is None else _plain_order(best_naive),
        idle_ranks=tuple(rank for rank in range(cluster.num_devices) if rank not in used),
        reasons=reasons(search, best, naive, best_naive),
    )


def _stages(cluster: Cluster, best: Weighed) -> tuple[Stage, ...]:
    pipeline = best.costs.pipeline(best.layers)
    following: tuple[Link | None, ...] = (*best.costs.next_links, None)
    return tuple(
        Stage(
            island=cluster.devices[ranks[0]].island,
            num_layers=best.layers[index],
            ranks=ranks,
            forward_seconds=pipeline.forward_seconds[index],
            backward_seconds=pipeline.backward_seconds[index],
            gradient_seconds=pipeline.gradient_seconds[index],
            memory_bytes=best.costs.stages[index].memory_bytes.at(best.layers[index]),
            tensor_link=best.costs.stages[index].tensor_link.name,
            data_link=best.costs.stages[index].data_link.name,
            next_link="none" if link is None else link.name,
            next_seconds=0.0 if link is None else pipeline.boundaries[index].seconds,
        )
        for index, (ranks, link) in enumerate(zip(best.stages, following, strict=True))
    )


def _plain_order(weighed: Weighed) -> PlainOrder:
    degrees = weighed.costs.degrees
    return PlainOrder(
        tensor=degrees.tensor,
        context=degrees.context,
        pipeline=len(weighed.stages),
        data=degrees.data,
        predicted_seconds=weighed.seconds,
    )


def _too_large(search: Search) -> str:
    blocks, tightest, over = search.least_memory()
    island = search.cluster.islands[tightest]
    limit, step = int(island.memory_bytes) / GIB, search.step
    degrees = blocks.degrees
    return (
        f"{step.model.name} with sequences of {step.sequence_tokens:,} tokens fits on no placement: "
        f"the nearest found (tensor {degrees.tensor}, context {degrees.context}, pipeline "
        f"{blocks.num_stages}) needs {over * limit:.1f} GiB on a device of island {island.name}, "
        f"which may fill {limit:.1f} GiB; give more devices or memory, or shorter sequences"
    )
