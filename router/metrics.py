"""What the router counts, in Prometheus's text format.

- `motley_router_picks_total{model, offer, reason}`: attempts at a replica; `offer` is empty where the
  model has no planned weights; the reasons are the policies'.
- `motley_router_no_candidates_total{model, filter}`: attempts for which no replica was left, by the
  filter that left none: `model`, `health`, `untried` or `room`.
- `motley_router_prompt_characters_total{model}` and `motley_router_held_characters_total{model}`: of
  prompts sent, and of their beginnings that the replica had been sent before; prefix-aware only.
- `motley_router_requests_total{model, status}`: requests ended, by the status of the traffic log.
- `motley_router_replica_healthy{replica}`: 1 or 0.
- `motley_router_replica_draining{replica}`: 1 while it finishes what runs before it leaves.
- `motley_router_outstanding_requests{replica}`: sent and not yet ended.
- `motley_router_outstanding_tokens{replica}`: of those, input and expected output.
- `motley_router_ttft_seconds{replica}` and `motley_router_tpot_seconds{replica}`: moving averages.
- `motley_router_prefix_nodes{replica}`: prefixes remembered for it.
- `motley_router_tokens_per_prompt_byte{model}`: what input sizes are estimated with.
- `motley_router_reloads_total{outcome}`: files read again: `done`, or `refused` and nothing changed.
- `motley_router_lookup_failures_total{source}`: lookups of `discovery` that nobody answered.

Replicas that have left have no series any more. What is counted of failures stands in
`fault_metrics.py`.
"""

from collections.abc import Callable, Iterator
from functools import cache

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.base import Decision
from router.fleet import Fleet
from router.input_size import InputSizes


class RouterMetrics:
    """Counters of events, and gauges read from the fleet at each scrape."""

    def __init__(self, fleet: Fleet, sizes: InputSizes) -> None:
        self.registry = CollectorRegistry()
        """Where the parts of the router register counters of their own."""
        self.registry.register(_Gauges(fleet, sizes))
        self._pick = self._counter("picks", "Attempts at a replica", "model", "offer", "reason")
        self._request = self._counter("requests", "Requests ended", "model", "status")
        self._emptied = self._counter(
            "no_candidates", "Attempts without a replica to take them", "model", "filter"
        )
        self._prompt = self._counter("prompt_characters", "Characters of prompts sent", "model")
        self._held = self._counter(
            "held_characters", "Characters that the replica had been sent before", "model"
        )
        self._reload = self._counter("reloads", "Configurations read again", "outcome")
        self._lookup = self._counter("lookup_failures", "Lookups without an answer", "source")

    def lookup_failed(self, source: str) -> None:
        """Count one lookup that nobody answered."""
        self._lookup(source).inc()

    def reloaded(self, outcome: str) -> None:
        """Count one reload."""
        self._reload(outcome).inc()

    def picked(self, model: str, decision: Decision) -> None:
        """Count one attempt."""
        self._pick(model, decision.offer or "", decision.reason).inc()

    def matched(self, model: str, *, num_characters: int, num_held: int) -> None:
        """Count how much of a prompt the picked replica held."""
        self._prompt(model).inc(num_characters)
        self._held(model).inc(num_held)

    def emptied(self, model: str, filter_name: str) -> None:
        """Count one attempt for which that filter left no replica."""
        self._emptied(model, filter_name).inc()

    def ended(self, model: str | None, status: int) -> None:
        """Count one request; `model` is None where it does not exist."""
        self._request(model or "", status).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Callable[..., Counter]:
        """Return what gives the counter of some labels' values, which a plain look-up finds again."""
        counter = Counter(f"motley_router_{name}", text, labels, registry=self.registry)
        return cache(counter.labels)


class _Gauges(Collector):
    def __init__(self, fleet: Fleet, sizes: InputSizes) -> None:
        self._fleet = fleet
        self._sizes = sizes

    def collect(self) -> Iterator[Metric]:
        """Yield one sample a replica or model."""
        healthy = _gauge("replica_healthy", "Whether a replica is healthy", "replica")
        draining = _gauge("replica_draining", "Whether a replica finishes and leaves", "replica")
        outstanding = _gauge("outstanding_requests", "Requests on a replica", "replica")
        tokens = _gauge("outstanding_tokens", "Tokens of requests on a replica", "replica")
        ttft = _gauge("ttft_seconds", "Time to the first token, lately", "replica")
        tpot = _gauge("tpot_seconds", "Time a token, lately", "replica")
        nodes = _gauge("prefix_nodes", "Prefixes remembered for a replica", "replica")
        for replica in self._fleet.replicas:
            healthy.add_metric([replica.url], float(replica.is_healthy))
            draining.add_metric([replica.url], float(replica.is_draining))
            outstanding.add_metric([replica.url], replica.num_outstanding)
            tokens.add_metric([replica.url], replica.outstanding_tokens)
            nodes.add_metric([replica.url], len(replica.prefixes))
            if replica.latency.ttft_seconds is not None:
                ttft.add_metric([replica.url], replica.latency.ttft_seconds)
            if replica.latency.tpot_seconds is not None:
                tpot.add_metric([replica.url], replica.latency.tpot_seconds)
        ratios = _gauge("tokens_per_prompt_byte", "Tokens a byte of a prompt", "model")
        for model, ratio in self._sizes.tokens_per_byte.items():
            ratios.add_metric([model], ratio)
        yield from (healthy, draining, outstanding, tokens, ttft, tpot, nodes, ratios)


def _gauge(name: str, text: str, label: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"motley_router_{name}", text, labels=[label])
