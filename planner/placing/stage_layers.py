"""Layers of each stage: in proportion to speed, as Holmes publishes, and by min-max programmes.

One makes the slowest stage fast, which is all that counts with many micro-batches. The other counts
filling and draining too: it makes the stage fast whose work, once the first micro-batch has come
through the stages before it, ends last.

On 48 layers at speeds 197 and 160 the published rule gives 26 and 22, whose slower stage takes
22/160 = 0.1375; the programme gives 27 and 21, with 27/197 = 0.1371.
"""

import math
from collections.abc import Sequence

import numpy as np

from planner.placing.pipeline_costs import Line

_ROUNDING = 1e-9


def proportional_layers(
    num_layers: int, speeds: Sequence[float], *, alpha: float = 1.0
) -> tuple[int, ...]:
    """Return `floor(alpha N S_i / sum of S)` layers a stage, what remains on the last.

    As published; a stage may get none, or the last one less than none where alpha is large.

    Source: Holmes, arXiv 2312.03549, section 3.
    """
    total = math.fsum(speeds)
    shares = [math.floor(alpha * num_layers * speed / total + _ROUNDING) for speed in speeds[:-1]]
    return (*shares, num_layers - sum(shares))


def min_max_layers(
    num_layers: int, costs: Sequence[Line], most_layers: Sequence[int]
) -> tuple[int, ...] | None:
    """Return the layers of each stage for which the costliest stage costs least; None: they don't fit.

    Of those splits, one whose stages cost least together, since filling and draining the pipeline
    costs every stage once: layers go where one costs least, evenly and late where that is equal.

    Args:
        num_layers: Layers to share out, each stage at least one.
        costs: What a stage costs by its layers; growing.
        most_layers: What each stage can hold.
    """
    least = _min_max_cost(num_layers, costs, most_layers)
    if math.isinf(least):
        return None
    room = [
        _most_within(line, least, min(most, num_layers))
        for line, most in zip(costs, most_layers, strict=True)
    ]
    layers = [1] * len(costs)
    for _ in range(num_layers - len(costs)):
        open_stages = [stage for stage in range(len(costs)) if layers[stage] < room[stage]]
        chosen = min(open_stages, key=lambda k: (costs[k].a_layer, layers[k], -k))
        layers[chosen] += 1
    return tuple(layers)


def soonest_layers(
    num_layers: int,
    costs: Sequence[Line],
    most_layers: Sequence[int],
    *,
    num_micro_batches: int,
    transfer_seconds: Sequence[float],
    first_gradient: Line,
) -> tuple[int, ...] | None:
    """Return the layers of each stage for which `least_seconds` of the step is least; None: no room.

    `soonest[l]` is, for the stages from k on with l layers, the least of the greatest over them of
    the way there from stage k and all their work. One more stage in front with n of the layers makes
    it `max(m w(n), w(n) + 2 transfer + soonest[l - n])`.

    Args:
        num_layers: Layers to share out, each stage at least one.
        costs: Forward and backward of one micro-batch.
        most_layers: What each stage can hold.
        num_micro_batches: m.
        transfer_seconds: Behind each stage but the last, one direction.
        first_gradient: The first stage's all-reduce, which nothing hides.
    """
    if len(costs) > num_layers:
        return None
    totals = np.arange(num_layers + 1)
    numbers = np.arange(1, num_layers - len(costs) + 2)  # the other stages have one at least
    rest = totals[:, None] - numbers[None, :]
    soonest = np.where(totals == 0, 0.0, np.inf)
    chosen = []
    for stage in reversed(range(len(costs))):
        work = costs[stage].a_layer * numbers + costs[stage].at_ends
        work[numbers > most_layers[stage]] = np.inf
        way = 2 * transfer_seconds[stage] if stage < len(transfer_seconds) else 0.0
        later = np.where(rest >= 0, soonest[rest], np.inf) + way + work
        ends = np.maximum(num_micro_batches * work, later)
        if stage == 0:
            ends = ends + first_gradient.a_layer * numbers
        chosen.append(ends.argmin(axis=1) + 1)
        soonest = ends.min(axis=1)
    if np.isinf(soonest[num_layers]):
        return None
    layers: list[int] = []
    for best in reversed(chosen):
        layers.append(int(best[num_layers - sum(layers)]))
    return tuple(layers)


def _min_max_cost(num_layers: int, costs: Sequence[Line], most_layers: Sequence[int]) -> float:
    """Return the least cost of the costliest stage; infinity where the layers do not fit.

    `best[l]` is that cost of the stages so far with l layers. One more stage with n of them costs
    `max(best[l - n], cost(n))`: the first falls with n and the second grows, so the least lies
    where they cross, and that place only moves up with l.
    """
    best = [0.0] + [math.inf] * num_layers
    for stage, (line, most) in enumerate(zip(costs, most_layers, strict=True)):
        longer = [math.inf] * (num_layers + 1)
        number = 1
        for total in range(stage + 1, num_layers + 1):
            limit = min(most, total - stage)
            if limit < 1:
                break
            while number < limit and line.at(number) < best[total - number]:
                number += 1
            for tried in (number - 1, number):
                if 1 <= tried <= limit:
                    longer[total] = min(longer[total], max(best[total - tried], line.at(tried)))
        best = longer
    return best[num_layers]


def _most_within(line: Line, limit: float, most: int) -> int:
    """Return the most layers whose cost, as computed, is within the limit."""
    number = most
    while number > 1 and line.at(number) > limit:
        number -= 1
    return number
