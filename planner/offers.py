"""What can be rented or is owned: a kind of replica with its price and its speed."""

from planner.config import StrictModel
from planner.units import Count, Name, Price, Throughputs, Utilisation


class Offer(StrictModel):
    """One kind of replica: a device type, or several devices serving together."""

    name: Name
    """Unique name, such as `A10G` or `2xH100/spot`."""
    price_usd_per_hour: Price
    """Price of one replica; 0 for owned hardware."""
    throughput_requests_per_second: Throughputs
    """Highest rate one replica holds under the latency target when all requests have that size;
    a row an input range, a column an output range; 0 or null: cannot serve that size."""
    max_replicas: Count | None = None
    """How many replicas can be had; nothing: as many as needed."""
    utilisation_limit_fraction: Utilisation | None = None
    """Highest planned load of a replica; nothing: the file's limit."""
    engine_arguments: tuple[str, ...] = ()
    """Arguments for the engine of each replica, copied into the plan."""
