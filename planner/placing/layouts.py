"""Which ranks make which stage: blocks of stages on islands, and the plain order without a plan."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product

from planner.placing.training_step import Degrees, TrainingStep
from planner.training.cluster import Cluster

Stages = tuple[tuple[int, ...], ...]
"""Ranks of each stage: tensor groups side by side, context groups of them, copies of those."""

Block = tuple[int, int]
"""An island and how many stages in a row it has."""

MOST_BLOCK_SIZES = 1200
"""Choices of stages for each island that are all tried for given degrees; of more, some."""

_MOST_ORDERED_ISLANDS = 3


@dataclass(frozen=True, slots=True)
class Blocks:
    """Degrees, and each island's stages in the order of the pipeline."""

    degrees: Degrees
    blocks: tuple[Block, ...]

    @property
    def num_stages(self) -> int:
        """Stages of all islands."""
        return sum(number for _, number in self.blocks)


def stage_degrees(cluster: Cluster, step: TrainingStep, *, most_devices: int) -> Iterator[Degrees]:
    """Yield the ways to share out one stage of at most so many devices.

    The tensor degree divides heads and sequence and lies in a node; the context degree is a power of
    two of which twice divides the sequence, since each device has an early and a late piece of it;
    copies divide the batch into whole micro-batches.
    """
    width = max(island.devices_per_node for island in cluster.islands)
    copies = step.sequences_per_batch // step.micro_batch_sequences
    for tensor in range(1, width + 1):
        if step.model.num_attention_heads % tensor or step.sequence_tokens % tensor:
            continue
        context = 1
        while tensor * context <= most_devices:
            for data in range(1, most_devices // (tensor * context) + 1):
                if step.sequences_per_batch % (data * step.micro_batch_sequences) == 0:
                    yield Degrees(tensor, context, data)
                if data >= copies:
                    break
            context *= 2
            if step.sequence_tokens % (2 * context * tensor):
                break


def all_blocks(cluster: Cluster, degrees: Degrees, *, most_stages: int) -> Iterator[Blocks]:
    """Yield every choice of stages for each island, in every order of up to three islands.

    With more islands the order is the file's, and the one of falling memory, since the first stages
    keep the most activations.
    """
    for sizes in product(*_sizes(_room(cluster, degrees), most_stages)):
        used = [(island, size) for island, size in enumerate(sizes) if size]
        if used and sum(sizes) <= most_stages:
            for order in _orders(cluster, used):
                yield Blocks(degrees, tuple(order))


def is_thinned(cluster: Cluster, degrees: Degrees, *, most_stages: int) -> bool:
    """Return whether `all_blocks` leaves sizes out for these degrees."""
    room = _room(cluster, degrees)
    full = [range(min(each, most_stages) + 1) for each in room]
    chosen = _sizes(room, most_stages)
    return any(len(some) < len(all_) for some, all_ in zip(chosen, full, strict=True))


def placed_stages(cluster: Cluster, blocks: Blocks) -> Stages:
    """Return the ranks of each stage: each island's tensor groups in order, leftovers idle."""
    unit = blocks.degrees.context * blocks.degrees.data
    stages = []
    for island, number in blocks.blocks:
        groups = tensor_groups(cluster, island, blocks.degrees.tensor)
        for stage in range(number):
            chosen = groups[stage * unit : (stage + 1) * unit]
            stages.append(tuple(rank for group in chosen for rank in group))
    return tuple(stages)


def plain_stages(degrees: Degrees, num_stages: int) -> Stages:
    """Return the ranks in the order of the file, cut into stages wherever islands end."""
    size = degrees.num_devices
    return tuple(tuple(range(stage * size, (stage + 1) * size)) for stage in range(num_stages))


def plain_degrees(cluster: Cluster, step: TrainingStep) -> Iterator[tuple[Degrees, int]]:
    """Yield the degrees and stages of plain orders that take every device."""
    for degrees in stage_degrees(cluster, step, most_devices=cluster.num_devices):
        num_stages, rest = divmod(cluster.num_devices, degrees.num_devices)
        if rest == 0 and num_stages <= step.num_layers:
            yield degrees, num_stages


def equal_layers(num_layers: int, num_stages: int) -> tuple[int, ...]:
    """Return layers shared out equally, the first stages with one more where they do not divide."""
    each, more = divmod(num_layers, num_stages)
    return tuple(each + (stage < more) for stage in range(num_stages))


def tensor_groups(cluster: Cluster, island: int, tensor: int) -> list[range]:
    """Return the tensor groups of an island, none across nodes."""
    start = sum(each.num_devices for each in cluster.islands[:island])
    chosen = cluster.islands[island]
    return [
        range(first, first + tensor)
        for node in range(chosen.num_nodes)
        for first in _starts(
            start + node * chosen.devices_per_node, chosen.devices_per_node, tensor
        )
    ]


def _room(cluster: Cluster, degrees: Degrees) -> list[int]:
    """Return how many stages of these degrees each island holds."""
    return [
        island.num_nodes
        * (island.devices_per_node // degrees.tensor)
        // (degrees.context * degrees.data)
        for island in cluster.islands
    ]


def _starts(first: int, devices: int, tensor: int) -> range:
    return range(first, first + devices - tensor + 1, tensor)


def _sizes(room: Sequence[int], most_stages: int) -> list[list[int]]:
    """Return the stages that each island may get: all, or so many that few choices remain."""
    capped = [min(each, most_stages) for each in room]
    choices = [list(range(each + 1)) for each in capped]
    while _product(choices) > MOST_BLOCK_SIZES and any(len(each) > 2 for each in choices):
        longest = max(range(len(choices)), key=lambda k: len(choices[k]))
        choices[longest] = _every_other(choices[longest])
    if _product(choices) > MOST_BLOCK_SIZES:  # so many islands: the whole of each
        return [[each] for each in capped]
    return choices


def _every_other(sizes: Sequence[int]) -> list[int]:
    """Return none, all, and every other size between."""
    return [sizes[0], *sizes[1:-1][1::2], sizes[-1]]


def _product(choices: Sequence[Sequence[int]]) -> int:
    number = 1
    for each in choices:
        number *= len(each)
    return number


def _orders(cluster: Cluster, used: list[Block]) -> list[tuple[Block, ...]]:
    if len(used) <= _MOST_ORDERED_ISLANDS:
        return list(permutations(used))
    by_memory = sorted(used, key=lambda block: -int(cluster.islands[block[0]].memory_bytes))
    return list(dict.fromkeys([tuple(used), tuple(by_memory)]))
