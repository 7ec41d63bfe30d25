"""The fastest placement among all degrees, blocks of stages and orders of islands.

Candidates are ordered by a lower bound and weighed one by one until the bound passes the best found,
so that what is returned is the best of them all by the predicted step time.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from planner.placing.layouts import (
    Blocks,
    Stages,
    all_blocks,
    equal_layers,
    is_thinned,
    placed_stages,
    plain_degrees,
    plain_stages,
    stage_degrees,
)
from planner.placing.makespan import least_seconds, step_seconds
from planner.placing.pipeline_costs import Line, PipelineCosts, pipeline_costs, stage_costs
from planner.placing.stage_layers import min_max_layers, proportional_layers, soonest_layers
from planner.placing.training_step import Degrees, TrainingStep
from planner.training.cluster import Cluster


@dataclass(frozen=True)
class Weighed:
    """A layout with its layers, costs and predicted time."""

    stages: Stages
    costs: PipelineCosts
    layers: tuple[int, ...]
    seconds: float


@dataclass(frozen=True)
class Search:
    """A cluster, what it sustains, and the step to be placed on it."""

    cluster: Cluster
    flops_per_second: tuple[float, ...]
    """Of one device, by island."""
    step: TrainingStep
    _paces: dict[tuple[Degrees, int], float] = field(default_factory=dict)

    def best(self) -> Weighed | None:
        """Return the fastest placement, or nothing where none fits in memory."""
        bounded = [(self._bound(blocks), index, blocks) for index, blocks in enumerate(self._all())]
        bounded.sort(key=lambda each: each[:2])
        best: Weighed | None = None
        for bound, _, blocks in bounded:
            limit = math.inf if best is None else best.seconds
            if bound >= limit:
                break
            found = self.weigh(blocks, limit_seconds=limit) if self._may_fit(blocks) else None
            if found is not None and found.seconds < limit:
                best = found
        return best

    def weigh(self, blocks: Blocks, *, limit_seconds: float = math.inf) -> Weighed | None:
        """Return a choice of blocks with the fastest of three splits of the layers.

        Nothing where they do not fit, or where the step surely takes as long as the limit.
        """
        stages = placed_stages(self.cluster, blocks)
        costs = self._costs(blocks.degrees, stages)
        soonest = self._soonest(costs)
        if soonest is None or least_seconds(costs.pipeline(soonest)) >= limit_seconds:
            return None  # of all splits, this one's bound is least
        weighed = (
            Weighed(stages, costs, layers, step_seconds(costs.pipeline(layers)))
            for layers in dict.fromkeys([soonest, *self._other_splits(costs)])
        )
        return min(weighed, key=lambda each: each.seconds)

    def _soonest(self, costs: PipelineCosts) -> tuple[int, ...] | None:
        return soonest_layers(
            self.step.num_layers,
            [stage.seconds for stage in costs.stages],
            [stage.most_layers for stage in costs.stages],
            num_micro_batches=costs.num_micro_batches,
            transfer_seconds=[boundary.seconds for boundary in costs.boundaries()],
            first_gradient=costs.stages[0].gradient_seconds,
        )

    def _other_splits(self, costs: PipelineCosts) -> Iterator[tuple[int, ...]]:
        """Yield the split of the fastest slowest stage, and the published one where it fits."""
        lines = [stage.seconds for stage in costs.stages]
        most = [stage.most_layers for stage in costs.stages]
        split = min_max_layers(self.step.num_layers, lines, most)
        assert split is not None  # another fits
        yield split
        published = proportional_layers(self.step.num_layers, [1 / line.a_layer for line in lines])
        if costs.holds(published):
            yield published

    def plain(self, degrees: Degrees, num_stages: int) -> Weighed | None:
        """Return the plain rank order with equal layers, or nothing where it does not fit."""
        stages = plain_stages(degrees, num_stages)
        costs = self._costs(degrees, stages)
        layers = equal_layers(self.step.num_layers, num_stages)
        if not costs.holds(layers):
            return None
        return Weighed(stages, costs, layers, step_seconds(costs.pipeline(layers)))

    def best_plain(self) -> Weighed | None:
        """Return the fastest plain order of every device, or nothing where none fits."""
        found = (
            self.plain(degrees, number)
            for degrees, number in plain_degrees(self.cluster, self.step)
            if self._plain_may_fit(degrees, number)
        )
        fitting = (each for each in found if each is not None)
        return min(fitting, key=lambda each: each.seconds, default=None)

    def least_memory(self) -> tuple[Blocks, int, float]:
        """Return blocks that nearly fit, their tightest island, and its memory's multiple they need.

        Of one copy, and of each degrees with as many stages as there are, or with one island's.
        """
        nearest: tuple[float, int, Blocks] | None = None
        for degrees in self._degrees():
            if degrees.data > 1:
                continue
            tried = all_blocks(self.cluster, degrees, most_stages=self.step.num_layers)
            largest: dict[int, Blocks] = {}
            for blocks in tried:
                key = blocks.blocks[0][0] if len(blocks.blocks) == 1 else -1
                if key not in largest or blocks.num_stages > largest[key].num_stages:
                    largest[key] = blocks
            for blocks in largest.values():
                over, island = self._over(blocks)
                if nearest is None or over < nearest[0]:
                    nearest = over, island, blocks
        assert nearest is not None  # one device is always a stage
        return nearest[2], nearest[1], nearest[0]

    def is_thinned(self) -> bool:
        """Return whether some choices of blocks were left out."""
        return any(
            is_thinned(self.cluster, degrees, most_stages=self.step.num_layers)
            for degrees in self._degrees()
        )

    def _degrees(self) -> Iterator[Degrees]:
        most = max(island.num_devices for island in self.cluster.islands)
        return stage_degrees(self.cluster, self.step, most_devices=most)

    def _all(self) -> Iterator[Blocks]:
        for degrees in self._degrees():
            yield from all_blocks(self.cluster, degrees, most_stages=self.step.num_layers)

    def _costs(self, degrees: Degrees, stages: Stages) -> PipelineCosts:
        return pipeline_costs(self.cluster, self.flops_per_second, self.step, degrees, stages)

    def _bound(self, blocks: Blocks) -> float:
        """Return seconds that no split of the layers over these blocks beats.

        With x_k the time of a micro-batch on stage k, the step takes at least the sum of x_j before
        k and m x_k, for every k. Weights on these inequalities that leave each layer the same price
        give the bound; from the last stage on a stage of a layer's seconds s brings the sum of
        weights W to W + (1/s - W)/m, or leaves it where it is above 1/s.
        """
        micro_batches = self.step.num_micro_batches(blocks.degrees.data)
        weight = 0.0
        for island, number in reversed(blocks.blocks):
            rate = 1 / self._pace(blocks.degrees, island)
            if rate > weight:
                weight = rate - (rate - weight) * (1 - 1 / micro_batches) ** number
        return self.step.num_layers / weight

    def _pace(self, degrees: Degrees, island: int) -> float:
        """Return a layer's seconds on the island's best stage."""
        key = degrees, island
        if key not in self._paces:
            (ranks,) = placed_stages(self.cluster, Blocks(degrees, ((island, 1),)))
            costs = stage_costs(
                self.cluster,
                self.flops_per_second,
                self.step,
                degrees,
                ranks,
                stage=0,
                num_stages=1,
            )
            self._paces[key] = costs.seconds.a_layer
        return self._paces[key]

    def _may_fit(self, blocks: Blocks) -> bool:
        limits = [
            int(self.cluster.islands[island].memory_bytes)
            for island, number in blocks.blocks
            for _ in range(number)
        ]
        return self._room(blocks.degrees, limits)

    def _plain_may_fit(self, degrees: Degrees, num_stages: int) -> bool:
        layers = equal_layers(self.step.num_layers, num_stages)
        most = max(int(island.memory_bytes) for island in self.cluster.islands)
        return all(
            line.at(number) <= most
            for line, number in zip(self._memory(degrees, num_stages), layers, strict=True)
        )

    def _room(self, degrees: Degrees, limits: Sequence[int]) -> bool:
        """Return whether stages of so much memory hold all layers, and at least one each."""
        held = 0
        for line, limit in zip(self._memory(degrees, len(limits)), limits, strict=True):
            most = int((limit - line.at_ends) / line.a_layer)
            if most < 1:
                return False
            held += most
        return held >= self.step.num_layers

    def _memory(self, degrees: Degrees, num_stages: int) -> list[Line]:
        return [
            Line(
                self.step.layer_bytes(degrees, stage, num_stages),
                self.step.end_bytes(degrees, stage, num_stages),
            )
            for stage in range(num_stages)
        ]

    def _over(self, blocks: Blocks) -> tuple[float, int]:
        """Return how many times its memory the fullest device needs at best, and its island."""
        islands = [island for island, number in blocks.blocks for _ in range(number)]
        limits = [int(self.cluster.islands[island].memory_bytes) for island in islands]
        lines = [
            Line(line.a_layer / limit, line.at_ends / limit)
            for line, limit in zip(self._memory(blocks.degrees, len(islands)), limits, strict=True)
        ]
        layers = min_max_layers(self.step.num_layers, lines, [self.step.num_layers] * len(lines))
        assert layers is not None  # as many stages as layers at most
        filled = [line.at(number) for line, number in zip(lines, layers, strict=True)]
        over = max(filled)
        return over, islands[filled.index(over)]
