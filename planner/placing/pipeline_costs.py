"""What stages cost: each stage's times, links and memory as straight lines in its layers.

With `t`, `c`, `d` the tensor, context and data degrees, on the stage's slowest device and worst link:

    forward    layers (flops / (t c speed) + two all-reduces in the tensor group + keys and values
               passed around the context group), and the head on the last stage
    backward   twice the arithmetic, as many all-reduces, twice the keys and values
    gradients  ring all-reduce 2 (g-1)/g bytes / rate + 2 (g-1) latencies over g = c d, after the
               last backward; not hidden behind it
    boundary   tokens width 2 bytes / (t c) / rate, and its latency

The optimiser's own arithmetic is left out: it is the same wherever layers lie.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from planner.placing.links import Link, worst_link
from planner.placing.pipeline import Boundary, Pipeline
from planner.placing.training_step import VALUE_BYTES, Degrees, TrainingStep
from planner.training.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Line:
    """A quantity that grows evenly with a stage's layers."""

    a_layer: float
    """Of each layer."""
    at_ends: float
    """Whatever the layers: tables, head, latencies."""

    def at(self, num_layers: int) -> float:
        """Return the quantity of a stage of so many layers."""
        return self.a_layer * num_layers + self.at_ends


@dataclass(frozen=True, slots=True)
class StageCosts:
    """One stage on given devices."""

    forward_seconds: Line
    backward_seconds: Line
    gradient_seconds: Line
    memory_bytes: Line
    memory_limit_bytes: int
    """Of its smallest device."""
    tensor_link: Link
    data_link: Link

    @property
    def seconds(self) -> Line:
        """Forward and backward of one micro-batch."""
        forward, backward = self.forward_seconds, self.backward_seconds
        return Line(forward.a_layer + backward.a_layer, forward.at_ends + backward.at_ends)

    @property
    def most_layers(self) -> int:
        """Layers that fit, perhaps none."""
        free = self.memory_limit_bytes - self.memory_bytes.at_ends
        return max(0, int(free / self.memory_bytes.a_layer))


@dataclass(frozen=True)
class PipelineCosts:
    """All stages and what joins them, before layers are shared out."""

    step: TrainingStep
    degrees: Degrees
    stages: tuple[StageCosts, ...]
    next_links: tuple[Link, ...]
    """Behind each stage but the last."""
    table_seconds: float

    @property
    def num_micro_batches(self) -> int:
        """Of each copy."""
        return self.step.num_micro_batches(self.degrees.data)

    def holds(self, layers: Sequence[int]) -> bool:
        """Return whether every stage has a layer and fits in memory."""
        return all(
            0 < number <= stage.most_layers
            for stage, number in zip(self.stages, layers, strict=True)
        )

    def boundaries(self) -> tuple[Boundary, ...]:
        """Return what carries one micro-batch behind each stage but the last."""
        size = self.step.activation_bytes(self.degrees)
        return tuple(
            Boundary(size / link.bytes_per_second, link.latency_seconds) for link in self.next_links
        )

    def pipeline(self, layers: Sequence[int]) -> Pipeline:
        """Return the pipeline whose stages hold so many layers each."""
        pairs = tuple(zip(self.stages, layers, strict=True))
        return Pipeline(
            num_micro_batches=self.num_micro_batches,
            forward_seconds=tuple(stage.forward_seconds.at(number) for stage, number in pairs),
            backward_seconds=tuple(stage.backward_seconds.at(number) for stage, number in pairs),
            boundaries=self.boundaries(),
            gradient_seconds=tuple(stage.gradient_seconds.at(number) for stage, number in pairs),
            table_seconds=self.table_seconds,
        )


def pipeline_costs(
    cluster: Cluster,
    flops_per_second: Sequence[float],
    step: TrainingStep,
    degrees: Degrees,
    stages: Sequence[Sequence[int]],
) -> PipelineCosts:
    """Return what stages on these ranks cost.

    Args:
        cluster: Where.
        flops_per_second: Sustained arithmetic of one device, by island.
        step: What is trained.
        degrees: How each stage is shared out.
        stages: Ranks of each stage: tensor groups side by side, context groups of them, copies of
            those.
    """
    links = [worst_link(cluster, zip(here, there, strict=True)) for here, there in pairwise(stages)]
    table_seconds = 0.0
    if step.model.is_embedding_tied and len(stages) > 1:
        link = worst_link(cluster, zip(stages[0], stages[-1], strict=True))
        table_bytes = step.model.vocabulary_parameters * VALUE_BYTES / degrees.tensor
        table_seconds = _ring_seconds(table_bytes, 2, link)
    costs = tuple(
        stage_costs(
            cluster, flops_per_second, step, degrees, ranks, stage=stage, num_stages=len(stages)
        )
        for stage, ranks in enumerate(stages)
    )
    return PipelineCosts(step, degrees, costs, tuple(links), table_seconds)


def stage_costs(
    cluster: Cluster,
    flops_per_second: Sequence[float],
    step: TrainingStep,
    degrees: Degrees,
    ranks: Sequence[int],
    *,
    stage: int,
    num_stages: int,
) -> StageCosts:
    """Return what one stage on these ranks costs; arguments are as of `pipeline_costs`."""
    tensor_link = worst_link(cluster, _chunks(ranks, degrees.tensor))
    context_link = worst_link(cluster, _context_groups(ranks, degrees))
    data_link = worst_link(cluster, [ranks[i :: degrees.tensor] for i in range(degrees.tensor)])
    devices = [cluster.devices[rank] for rank in ranks]
    speed = min(flops_per_second[island] for island in {device.island for device in devices})
    rate = speed * degrees.tensor * degrees.context
    reduce = _ring_seconds(step.reduced_bytes(degrees), degrees.tensor, tensor_link)
    around = (degrees.context - 1) * (
        step.key_value_bytes(degrees) / context_link.bytes_per_second + context_link.latency_seconds
    )
    is_first, is_last = stage == 0, stage == num_stages - 1
    layer, head = step.layer_flops / rate, is_last * step.head_flops / rate
    gradient_bytes = VALUE_BYTES / degrees.tensor
    holders = degrees.num_gradient_holders
    latency = 2 * (holders - 1) * data_link.latency_seconds
    a_byte = _ring_seconds(gradient_bytes, holders, data_link, latency=False)
    return StageCosts(
        forward_seconds=Line(layer + 2 * reduce + around, head + is_first * reduce),
        backward_seconds=Line(2 * (layer + reduce + around), 2 * head + is_last * reduce),
        gradient_seconds=Line(
            a_byte * step.layer_parameters,
            a_byte * step.table_parameters(stage, num_stages) + latency,
        ),
        memory_bytes=Line(
            step.layer_bytes(degrees, stage, num_stages), step.end_bytes(degrees, stage, num_stages)
        ),
        memory_limit_bytes=min(device.memory_bytes for device in devices),
        tensor_link=tensor_link,
        data_link=data_link,
    )


def _ring_seconds(num_bytes: float, members: int, link: Link, *, latency: bool = True) -> float:
    """Return the time of a ring all-reduce: twice round, each time all but its own share."""
    messages = 2 * (members - 1)
    waits = messages * link.latency_seconds if latency else 0.0
    return messages / members * num_bytes / link.bytes_per_second + waits


def _chunks(ranks: Sequence[int], size: int) -> list[Sequence[int]]:
    return [ranks[start : start + size] for start in range(0, len(ranks), size)]


def _context_groups(ranks: Sequence[int], degrees: Degrees) -> Iterable[Sequence[int]]:
    for copy in _chunks(ranks, degrees.tensor * degrees.context):
        for index in range(degrees.tensor):
            yield copy[index :: degrees.tensor]
