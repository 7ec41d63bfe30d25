"""Arithmetic that each island's devices sustain, from the catalogue and the cluster's own ratios."""

from planner.errors import UnknownNameError
from planner.hardware.catalogue import Catalogue
from planner.hardware.gpu_spec import DType, GpuSpec
from planner.training.cluster import Cluster, Island

COMPUTE_FRACTION = 0.6
"""Share of the dense peak that training sustains: Holmes (arXiv 2312.03549) reports 197 of an A100's
312 TFLOPS, exchanges included; the planner's engines have the same for large matrices."""

_FORMATS: tuple[DType, ...] = ("bfloat16", "float16", "float32")


def island_flops_per_second(cluster: Cluster, catalogue: Catalogue) -> tuple[float, ...]:
    """Return the sustained arithmetic of one device of each island; see `unit_flops_per_second`.

    Raises:
        UnknownNameError: If the catalogue lists no island's device.
    """
    unit = unit_flops_per_second(cluster, catalogue)
    return tuple(unit * each.relative_speed for each in cluster.islands)


def unit_flops_per_second(cluster: Cluster, catalogue: Catalogue) -> float:
    """Return the sustained arithmetic of a device of relative speed 1.

    How islands compare is the file's `relative_speed` alone, as for sequence groups; the catalogue
    says how fast the device is to which they compare: the first island's of speed 1 that it lists,
    else the first listed.

    Raises:
        UnknownNameError: If the catalogue lists no island's device.
    """
    listed = [(island, spec) for island in cluster.islands if (spec := _find(island, catalogue))]
    if not listed:
        catalogue.gpu(cluster.islands[0].device)  # raises, naming the nearest
    island, spec = min(listed, key=lambda each: each[0].relative_speed != 1.0)
    peak = next(
        (spec.dense_flops_per_second[dtype] for dtype in _FORMATS if _has(spec, dtype)),
        max(spec.dense_flops_per_second.values()),
    )
    return peak * COMPUTE_FRACTION / island.relative_speed


def _find(island: Island, catalogue: Catalogue) -> GpuSpec | None:
    try:
        return catalogue.gpu(island.device)
    except UnknownNameError:
        return None


def _has(spec: GpuSpec, dtype: DType) -> bool:
    return dtype in spec.dense_flops_per_second
