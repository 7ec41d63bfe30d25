"""What it costs that devices share every layer: two all-reduces a layer."""

import math

ALL_REDUCES_PER_LAYER = 2
"""One after attention, one after the feed-forward block (Megatron-LM, arXiv 1909.08053, section 3)."""


def all_reduce_hops(num_devices: int) -> float:
    """Return how often one all-reduce waits for its neighbours: once a doubling of the devices.

    0 for one device, 1 for two, 3 for eight: the depth of a tree. Chosen among constant, tree and
    ring by cross-validation on measured steps (`tests/benchmarks/calibration.py`).
    """
    return math.log2(num_devices)


def all_reduce_traffic(num_devices: int) -> float:
    """Return how many times its share of the message a device sends in one ring all-reduce.

    `2 (n - 1) / n`: the bandwidth-optimal amount (Patarasuk and Yuan, 2009).
    """
    return 2 * (num_devices - 1) / num_devices
