"""How long a step of a pipeline takes under 1F1B: exact recurrences, and the cycle that repeats.

With `w_k` a micro-batch's forward and backward on stage k and `c_k` its transfer behind k, any
stages from `a` to `z` pass work on no faster than one micro-batch in

    (sum of w_a .. w_z  +  2 sum of c_a .. c_(z-1)) / (z - a + 1)        seconds

because stage a is 1 forward ahead of the next one, that of the one behind it, and so on: the chain
forward from a to z and back frees one of its z - a + 1 places. The slowest chain sets the pace: one
stage alone gives the bottleneck stage, two give what a slow boundary costs. Short runs are
followed micro-batch by micro-batch; long ones are followed until the pace has settled.
"""

from planner.placing.pipeline import Pipeline

SETTLING_MICRO_BATCHES = 6
"""Micro-batches for each stage that are followed one by one before the pace is taken as settled."""


def step_seconds(pipeline: Pipeline) -> float:
    """Return the seconds from the first forward to the last gradient's arrival."""
    followed = min(pipeline.num_micro_batches, SETTLING_MICRO_BATCHES * (pipeline.num_stages + 1))
    ends = _backward_ends(pipeline, followed)
    rest = (pipeline.num_micro_batches - followed) * cycle_seconds(pipeline)
    reduced = [
        end + gradient for end, gradient in zip(ends, pipeline.gradient_seconds, strict=True)
    ]
    return rest + max(*reduced, max(reduced[0], reduced[-1]) + pipeline.table_seconds)


def least_seconds(pipeline: Pipeline) -> float:
    """Return seconds that the step takes at least, at once: each stage with all its work.

    Its first micro-batch comes through the stages before it, and its last gradient goes back through
    them to the first, which then adds up its own.
    """
    way = least = 0.0
    for stage in range(pipeline.num_stages):
        work = pipeline.forward_seconds[stage] + pipeline.backward_seconds[stage]
        least = max(least, way + pipeline.num_micro_batches * work)
        if stage < len(pipeline.boundaries):
            way += work + 2 * pipeline.boundaries[stage].seconds
    return least + pipeline.gradient_seconds[0]


def cycle_seconds(pipeline: Pipeline) -> float:
    """Return the seconds that each further micro-batch adds once the pipeline has filled."""
    work = [
        forward + backward
        for forward, backward in zip(
            pipeline.forward_seconds, pipeline.backward_seconds, strict=True
        )
    ]
    slowest = max((boundary.busy_seconds for boundary in pipeline.boundaries), default=0.0)
    for first in range(pipeline.num_stages):
        chain = 0.0
        for last in range(first, pipeline.num_stages):
            chain += work[last]
            if last > first:
                chain += 2 * pipeline.boundaries[last - 1].seconds
            slowest = max(slowest, chain / (last - first + 1))
    return slowest


def _backward_ends(pipeline: Pipeline, num_micro_batches: int) -> list[float]:
    """Return when each stage has done its last backward.

    Round j runs every stage's forward j + warm-up, all of whose causes lie in earlier rounds or
    stages, then backward j from the last stage to the first.
    """
    stages = range(pipeline.num_stages)
    last = pipeline.num_stages - 1
    free = [0.0] * pipeline.num_stages
    down, up = [0.0] * last, [0.0] * last  # when each boundary's two directions are free
    arrived: list[list[float]] = [[] for _ in stages]

    def forward(stage: int, index: int) -> None:
        start = free[stage] if stage == 0 else max(free[stage], arrived[stage][index])
        free[stage] = end = start + pipeline.forward_seconds[stage]
        if stage < last:
            boundary = pipeline.boundaries[stage]
            down[stage] = max(down[stage], end) + boundary.busy_seconds
            arrived[stage + 1].append(down[stage] + boundary.latency_seconds)

    warm_ups = [min(last - stage, num_micro_batches) for stage in stages]
    for stage in stages:
        for index in range(warm_ups[stage]):
            forward(stage, index)
    for index in range(num_micro_batches):
        for stage in stages:
            if index + warm_ups[stage] < num_micro_batches:
                forward(stage, index + warm_ups[stage])
        gradient = 0.0
        for stage in reversed(stages):
            free[stage] = max(free[stage], gradient) + pipeline.backward_seconds[stage]
            if stage:
                boundary = pipeline.boundaries[stage - 1]
                up[stage - 1] = max(up[stage - 1], free[stage]) + boundary.busy_seconds
                gradient = up[stage - 1] + boundary.latency_seconds
    return free
