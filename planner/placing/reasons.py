"""Why a placement is better than plain rank order, in sentences with figures."""

from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from planner.placing.layouts import MOST_BLOCK_SIZES, equal_layers
from planner.placing.makespan import step_seconds
from planner.placing.search import Search, Weighed
from planner.training.cluster import Cluster
from planner.training.device_speed import COMPUTE_FRACTION

_MIB = 2**20


def reasons(
    search: Search, best: Weighed, naive: Weighed | None, best_naive: Weighed | None
) -> tuple[str, ...]:
    """Return what speaks for the placement, and what its reader must know, most telling first."""
    return (
        _against_same_degrees(best, naive),
        _against_best_plain(best, best_naive),
        *_cut(search.cluster, best),
        *_gradients(best, naive),
        *_layers(search, best),
        _waiting(best),
        *_idle(search.cluster, best),
        *_tables(best),
        *_assumptions(search),
    )


def _against_same_degrees(best: Weighed, naive: Weighed | None) -> str:
    step = f"a step takes {_time(best.seconds)}"
    if naive is None:
        return (
            f"{step}; the same degrees in plain rank order with equal layers do not fit in memory"
        )
    return (
        f"{step}, {_time(naive.seconds)} with the same degrees in plain rank order and equal layers "
        f"({naive.seconds / best.seconds:.2f} times)"
    )


def _against_best_plain(best: Weighed, plain: Weighed | None) -> str:
    if plain is None:
        return "no plain rank order that takes every device fits in memory"
    degrees = plain.costs.degrees
    named = (
        f"the fastest plain order of every device (tensor {degrees.tensor}, context "
        f"{degrees.context}, pipeline {len(plain.stages)}, data {degrees.data}) takes "
        f"{_time(plain.seconds)}"
    )
    if plain.seconds < best.seconds:
        return (
            f"{named}, less than this: between these islands the network is fast enough for groups "
            "across them, which a placement never makes"
        )
    return f"{named} ({plain.seconds / best.seconds:.2f} times)"


def _cut(cluster: Cluster, best: Weighed) -> Iterator[str]:
    islands = [cluster.devices[ranks[0]].island for ranks in best.stages]
    size = best.costs.step.activation_bytes(best.costs.degrees) / _MIB
    boundaries = best.costs.boundaries()
    for stage, (here, there) in enumerate(pairwise(islands)):
        if here != there:
            yield (
                f"between islands {cluster.islands[here].name} and {cluster.islands[there].name} "
                f"only the pipeline crosses, behind stage {stage}: {size:.1f} MiB a device and "
                f"micro-batch each way, {_time(boundaries[stage].seconds)}"
            )


def _gradients(best: Weighed, naive: Weighed | None) -> Iterator[str]:
    slowest = max(range(len(best.stages)), key=lambda k: _gradient(best, k))
    if not _gradient(best, slowest):
        return
    link = best.costs.stages[slowest].data_link.name
    said = f"gradients stay on {_carrier(link)}: {_time(_gradient(best, slowest))} a step at most"
    if naive is not None:
        worst = max(range(len(naive.stages)), key=lambda k: _gradient(naive, k))
        theirs = naive.costs.stages[worst].data_link.name
        if theirs == link:
            yield said
            return
        said += f"; in plain order {_time(_gradient(naive, worst))} on {_carrier(theirs)}"
    yield said


def _layers(search: Search, best: Weighed) -> Iterator[str]:
    if len(set(best.layers)) == 1:
        return
    equal = equal_layers(search.step.num_layers, len(best.layers))
    paces = dict.fromkeys(
        _time(pace) for pace in sorted(stage.seconds.a_layer for stage in best.costs.stages)
    )
    said = f"stages hold {_counts(best.layers)} layers, of which one takes {' or '.join(paces)} a micro-batch"
    if not best.costs.holds(equal):
        yield f"{said}; equal layers do not fit in memory"
        return
    seconds = step_seconds(best.costs.pipeline(equal))
    yield f"{said}; with {_counts(equal)} a step takes {_time(seconds)}"


def _waiting(best: Weighed) -> str:
    pipeline = best.costs.pipeline(best.layers)
    work = [
        forward + backward
        for forward, backward in zip(
            pipeline.forward_seconds, pipeline.backward_seconds, strict=True
        )
    ]
    busiest = pipeline.num_micro_batches * max(work) / best.seconds
    stages, micro_batches = pipeline.num_stages, pipeline.num_micro_batches
    return (
        f"the busiest stage works {busiest:.0%} of the step; filling and draining {stages} even "
        f"stages with {micro_batches} micro-batches would leave "
        f"{micro_batches / (micro_batches + stages - 1):.0%}"
    )


def _idle(cluster: Cluster, best: Weighed) -> Iterator[str]:
    used = {rank for ranks in best.stages for rank in ranks}
    for index, island in enumerate(cluster.islands):
        left = [
            device
            for device in cluster.devices
            if device.island == index and device.rank not in used
        ]
        if len(left) == island.num_devices:
            yield f"island {island.name} is left out: every placement found with it is slower"
        elif left:
            yield (
                f"{len(left)} of island {island.name}'s {island.num_devices} devices are idle: "
                f"a stage takes {best.costs.degrees.num_devices}, and no choice that uses them is "
                "faster"
            )


def _tables(best: Weighed) -> Iterator[str]:
    if best.costs.table_seconds:
        yield (
            "first and last stage both hold the tied embeddings and exchange their gradients once a "
            f"step, {_time(best.costs.table_seconds)}"
        )


def _assumptions(search: Search) -> Iterator[str]:
    peak = f"{COMPUTE_FRACTION:.0%} of the dense peak"
    yield f"times assume {peak} in every device; measure a step before trusting them to a percent"
    islands = search.cluster.islands
    speeds = {island.relative_speed for island in islands}
    if len({island.device for island in islands}) > 1 and len(speeds) == 1:
        yield (
            f"unlike devices are taken as equally fast: the cluster gives each a relative_speed of "
            f"{speeds.pop():g}; set it by what was measured"
        )
    if search.is_thinned():
        yield (
            f"of more than {MOST_BLOCK_SIZES:,} choices of stages for the islands, some were left out"
        )


def _gradient(weighed: Weighed, stage: int) -> float:
    return weighed.costs.stages[stage].gradient_seconds.at(weighed.layers[stage])


def _counts(layers: Sequence[int]) -> str:
    """Return layers by stage, runs of equal ones in short: `19, 3 x 21`."""
    runs = [(number, len(list(run))) for number, run in groupby(layers)]
    return ", ".join(
        f"{length} x {number}" if length > 1 else f"{number}" for number, length in runs
    )


def _carrier(link: str) -> str:
    names = {"node": "the link inside a node", "infiniband": "InfiniBand", "roce": "RoCE"}
    return names.get(link, "Ethernet" if link == "ethernet" else "one device")


def _time(seconds: float) -> str:
    """Return three figures in the unit that suits."""
    if seconds >= 1 or seconds == 0:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:,.0f} s"
    if seconds >= 1e-3:
        return f"{seconds * 1e3:.3g} ms"
    return f"{seconds * 1e6:.3g} µs"
