"""What is remembered of failures from one request to the next; it outlives a reload."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from router.fault_metrics import FaultMetrics
from router.faults_config import BreakerConfig, RetryConfig
from router.fleet import Fleet
from router.guards import Guards
from router.retry_budget import RetryBudget


class Faults:
    """The guards of a fleet, the budget of its retries, and what is counted of both."""

    def __init__(
        self,
        fleet: Fleet,
        breaker: BreakerConfig,
        retry: RetryConfig,
        registry: CollectorRegistry,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with nothing against any replica; what is counted goes to `registry`."""
        self.guards = Guards(breaker, monotonic=monotonic)
        self.budget = RetryBudget(
            fraction=retry.budget_fraction,
            floor_per_second=retry.budget_floor_per_second,
            monotonic=monotonic,
        )
        self.metrics = FaultMetrics(registry, fleet, self.guards)
        fleet.when_removed(lambda replica: self.guards.forget(replica.url))

    def configure(self, breaker: BreakerConfig, retry: RetryConfig) -> None:
        """Go by other settings from now on."""
        self.guards.configure(breaker)
        self.budget.configure(
            fraction=retry.budget_fraction, floor_per_second=retry.budget_floor_per_second
        )
