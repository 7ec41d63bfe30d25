"""What governance counts, in Prometheus's text format.

- `motley_router_tokens_total{tenant, model, kind}`: tokens of answered requests, `prompt` or
  `completion`; `tenant` is empty where the router has no keys.
- `motley_router_cost_usd_total{tenant, model}`: their cost by the models' prices.
- `motley_router_refusals_total{tenant, reason}`: requests refused before any replica saw them, by
  `key`, `model`, `requests`, `tokens`, `budget` or `store` (`lock`: an ended one whose reservation
  stayed); without a known key `tenant` is empty.
- `motley_router_usage_write_failures_total`: transactions that failed and are tried again, and sums
  that were dropped, too large to be written.

Tenants are those of the file of keys and models those that exist, so the series are bounded.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from router.governance.tenant import NANOUSD_PER_USD


class GovernanceMeters:
    """Counters of tokens, cost and refusals."""

    def __init__(self, registry: CollectorRegistry, num_failed_writes: Callable[[], int]) -> None:
        tokens = Counter(
            "motley_router_tokens",
            "Tokens of answered requests",
            ["tenant", "model", "kind"],
            registry=registry,
        )
        costs = Counter(
            "motley_router_cost_usd",
            "Cost of answered requests",
            ["tenant", "model"],
            registry=registry,
        )
        refusals = Counter(
            "motley_router_refusals",
            "Requests refused by governance",
            ["tenant", "reason"],
            registry=registry,
        )
        registry.register(_Failures(num_failed_writes))
        self._tokens, self._costs, self._refusals = tokens, costs, refusals
        # Finding a child by its labels takes longer than counting on it.
        self._children: dict[tuple[str, str], tuple[Counter, Counter, Counter]] = {}

    def used(
        self, tenant: str | None, model: str, tokens: tuple[int, int], cost_nanousd: int
    ) -> None:
        """Count an answered request's prompt and completion tokens and their cost."""
        children = self._children.get((tenant or "", model))
        if children is None:
            name = tenant or ""
            children = self._children[name, model] = (
                self._tokens.labels(name, model, "prompt"),
                self._tokens.labels(name, model, "completion"),
                self._costs.labels(name, model),
            )
        prompt, completion, cost = children
        prompt.inc(tokens[0])
        completion.inc(tokens[1])
        if cost_nanousd:
            cost.inc(cost_nanousd / NANOUSD_PER_USD)

    def refused(self, tenant: str | None, reason: str) -> None:
        """Count a refusal."""
        self._refusals.labels(tenant or "", reason).inc()


class _Failures(Collector):
    def __init__(self, num_failed_writes: Callable[[], int]) -> None:
        self._num_failed_writes = num_failed_writes

    def collect(self) -> Iterator[Metric]:
        """Yield the one sample."""
        family = CounterMetricFamily(
            "motley_router_usage_write_failures", "Transactions of usage that failed"
        )
        family.add_metric([], self._num_failed_writes())
        yield family
