"""Lines that a full disk cost, beside the router's other counters at `/metrics`.

- `motley_router_log_lines_lost_total{log}`: by file: `traffic`, `features` or `prompts`. The requests
  themselves go on.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class LogMetrics(Collector):
    """Reads the files' own counts at each scrape."""

    def __init__(
        self, registry: CollectorRegistry, num_lost_lines: Mapping[str, Callable[[], int]]
    ) -> None:
        """Show what the functions return, by the file's name."""
        self._num_lost_lines = num_lost_lines
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """Yield one sample a file."""
        family = CounterMetricFamily(
            "motley_router_log_lines_lost", "Lines that could not be written", labels=["log"]
        )
        for log, num_lost_lines in self._num_lost_lines.items():
            family.add_metric([log], num_lost_lines())
        yield family
