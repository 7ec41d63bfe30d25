"""What the router counts of failures, in Prometheus's text format.

- `motley_router_failed_attempts_total{reason}`: attempts that gave no answer to pass on: `failed`,
  `garbage`, `timeout`, `left` (a check found the replica down), `internal_error` (500), `busy` (429).
- `motley_router_retries_total{reason}`: attempts after the first, by what became of the one before.
- `motley_router_last_resorts_total`: attempts at replicas that are suspected or whose breaker is open,
  because no other was left.
- `motley_router_fallbacks_total{model, to}`: requests that another model answered.
- `motley_router_hedges_total{result}`: second attempts begun, by who answered: `first`, `second`, `none`.
- `motley_router_retries_refused_total{reason}`: further attempts not made: `budget`, `waiting_full`.
- `motley_router_waits_total{result}`: requests that waited for a replica: `found` one or `none`.
- `motley_router_breaker_state{replica}`: 0 closed, 1 half open, 2 open.
"""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.breaker import BreakerState
from router.fleet import Fleet
from router.guards import Guards

STATE_NUMBERS = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class FaultMetrics:
    """Counters of failures and of what was done about them."""

    def __init__(self, registry: CollectorRegistry, fleet: Fleet, guards: Guards) -> None:
        registry.register(_States(fleet, guards))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"motley_router_{name}", text, labels, registry=registry)

        self._failed = counter("failed_attempts", "Attempts without an answer to pass on", "reason")
        self._retries = counter("retries", "Attempts after the first", "reason")
        self._last_resorts = counter("last_resorts", "Attempts at replicas in doubt")
        self._fallbacks = counter("fallbacks", "Requests another model answered", "model", "to")
        self._hedges = counter("hedges", "Second attempts begun before the first ended", "result")
        self._refused = counter("retries_refused", "Further attempts not made", "reason")
        self._waits = counter("waits", "Requests that waited for a replica", "result")

    def failed(self, reason: str) -> None:
        """Count an attempt without an answer to pass on."""
        self._failed.labels(reason).inc()

    def retried(self, reason: str) -> None:
        """Count an attempt after the first, by what became of the one before."""
        self._retries.labels(reason).inc()

    def resorted(self) -> None:
        """Count an attempt at a replica in doubt."""
        self._last_resorts.inc()

    def fell_back(self, model: str, to: str) -> None:
        """Count a request that another model answered."""
        self._fallbacks.labels(model, to).inc()

    def hedged(self, result: str) -> None:
        """Count a second attempt, by who answered."""
        self._hedges.labels(result).inc()

    def refused(self, reason: str) -> None:
        """Count a further attempt that was not made."""
        self._refused.labels(reason).inc()

    def waited(self, result: str) -> None:
        """Count a request that waited, by whether it found a replica."""
        self._waits.labels(result).inc()


class _States(Collector):
    def __init__(self, fleet: Fleet, guards: Guards) -> None:
        self._fleet = fleet
        self._guards = guards

    def collect(self) -> Iterator[Metric]:
        """Yield each replica's breaker."""
        gauge = GaugeMetricFamily(
            "motley_router_breaker_state", "0 closed, 1 half open, 2 open", labels=["replica"]
        )
        urls = [replica.url for replica in self._fleet.replicas]
        for url, state in self._guards.states(urls).items():
            gauge.add_metric([url], STATE_NUMBERS[state])
        yield gauge
