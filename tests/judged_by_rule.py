"""A judge that replays nothing: latencies by a rule over the plan, and a diary of what was asked."""

from collections.abc import Callable

from planner.fleet.judging import Judged, Solved
from planner.simulator.intervals import Estimate
from planner.simulator.judgement import PoolOutcome, TargetOutcome

LIMIT_SECONDS = 1.0


class RuleJudge:
    """Judges a plan by `late(plan, model)`: seconds by pool; the target is one second for each."""

    words = "a rule"
    num_requests = 1000
    num_samples = 10
    duration_seconds = 600.0

    def __init__(self, late: Callable) -> None:
        self._late = late
        self.plans = []

    def judged(self, solved: Solved) -> Judged:
        """Return the outcome for every model of the plan."""
        names = [model.name for model in solved.plan.models]
        return Judged(solved, {name: self.of_model(solved.plan, name) for name in names})

    def of_model(self, plan, model):
        """Return the one target of a model; its value is that of its slowest pool."""
        self.plans.append(counts_of(plan))
        seconds = self._late(plan, model)
        pools = tuple(
            PoolOutcome(pool, Estimate(value, 0.0), 100, 100 if value > LIMIT_SECONDS else 0)
            for pool, value in seconds.items()
        )
        worst = Estimate(max(seconds.values()), 0.01)
        return (TargetOutcome("TTFT p95", LIMIT_SECONDS, worst, pools),)


def counts_of(plan):
    """Return the replicas of a plan by offer, all models together."""
    counts = {}
    for row in plan.replicas:
        counts[row.offer] = counts.get(row.offer, 0) + row.replicas
    return counts


def utilisations(plan, model):
    """Return the use of each pool of a model."""
    rows = [row for row in plan.replicas if row.model == model]
    return {row.offer: row.utilisation_fraction for row in rows}
