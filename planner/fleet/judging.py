"""A solved plan, and whether a replay of each model's requests meets the model's target on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from planner.errors import SolverError
from planner.fleet.fleet_plan import FleetPlan
from planner.fleet.planned_fleet import planned_fleet
from planner.fleet.replay import Replay
from planner.fleet.verification import VerifiedTarget
from planner.fleet_program.answer import PROVEN_GAP_FRACTION, FleetAnswer
from planner.fleet_program.problem import FleetProblem
from planner.simulator.judgement import TargetOutcome, judge
from planner.workloads.slo import Slo

ROUNDING_FRACTION = 1e-6
"""Relative excess of a bound over a cost that is rounding."""

OnProgress = Callable[[str, float], None]
"""Told what is being done, and the fraction of it that is."""


@dataclass(frozen=True, slots=True)
class Solved:
    """A program, its answer and the plan made of both."""

    problem: FleetProblem
    answer: FleetAnswer
    plan: FleetPlan

    def bounded(self, bound_usd_per_hour: float) -> FleetAnswer:
        """Return the answer with the bound of a program it is an answer to, and its status.

        Raises:
            SolverError: If the plan costs less than that: then the bound is none.
        """
        cost = self.answer.cost_usd_per_hour
        if bound_usd_per_hour > cost * (1 + ROUNDING_FRACTION):
            raise SolverError(
                f"{self.answer.solver} bounds the cost by {bound_usd_per_hour:.6g} USD an hour, a "
                f"plan costs {cost:.6g}; report this"
            )
        answer = replace(self.answer, bound_usd_per_hour=min(bound_usd_per_hour, cost))
        is_proven = answer.gap_fraction <= PROVEN_GAP_FRACTION
        return replace(answer, status="optimal" if is_proven else "feasible")


@dataclass(frozen=True, slots=True)
class Judged:
    """A plan with the outcome of its replay."""

    solved: Solved
    outcomes: Mapping[str, tuple[TargetOutcome, ...]]
    """Each target's outcome, by model."""

    @property
    def worst_ratio(self) -> float:
        """The largest value over its limit."""
        return max(map(worst_ratio, self.outcomes.values()))

    @property
    def is_met(self) -> bool:
        """Tell whether every target is met."""
        return self.worst_ratio <= 1

    def targets(self) -> tuple[VerifiedTarget, ...]:
        """Return the outcomes as the plan's document holds them."""
        return tuple(
            target
            for model, outcomes in self.outcomes.items()
            for target in targets_of(model, outcomes)
        )


def targets_of(model: str, outcomes: tuple[TargetOutcome, ...]) -> tuple[VerifiedTarget, ...]:
    """Return the outcomes of a model's targets as documents hold them."""
    return tuple(
        VerifiedTarget(
            model=model,
            target=outcome.target,
            limit_seconds=outcome.limit_seconds,
            value_seconds=outcome.estimate.value,
            half_width_seconds=outcome.estimate.half_width,
        )
        for outcome in outcomes
    )


def worst_ratio(outcomes: tuple[TargetOutcome, ...]) -> float:
    """Return the largest value over its limit."""
    return max(outcome.estimate.value / outcome.limit_seconds for outcome in outcomes)


class Judge:
    """Replays plans against the targets of their models."""

    def __init__(
        self, targets: Mapping[str, Slo], replays: Mapping[str, Replay], on_progress: OnProgress
    ) -> None:
        """Take targets and replays by model; every model with a target has a replay."""
        self._targets = targets
        self._replays = replays
        self._on_progress = on_progress

    @property
    def words(self) -> str:
        """What is replayed."""
        return "; ".join(f"{model}: {self._replays[model].words}" for model in self._targets)

    @property
    def num_requests(self) -> int:
        """Requests of one replication, all models together."""
        return sum(self._replays[model].num_requests for model in self._targets)

    @property
    def num_samples(self) -> int:
        """Samples behind each interval, of the model that has the fewest."""
        return min(self._replays[model].num_samples for model in self._targets)

    @property
    def duration_seconds(self) -> float:
        """How long the requests of one replication arrive, of the model whose end first."""
        return min(self._replays[model].duration_seconds for model in self._targets)

    def judged(self, solved: Solved) -> Judged:
        """Return the outcome of every target of every model."""
        return Judged(solved, {model: self.of_model(solved.plan, model) for model in self._targets})

    def of_model(self, plan: FleetPlan, model: str) -> tuple[TargetOutcome, ...]:
        """Return the outcome of one model's targets.

        Raises:
            UnverifiableError: If the plan does not say how fast a pool's steps are.
        """
        slo = self._targets[model]
        samples = self._replays[model].samples(
            planned_fleet(plan, model),
            count_tokens=slo.tpot_seconds is not None and slo.tpot_per == "token",
            on_progress=lambda fraction: self._on_progress(f"replaying {model}", fraction),
        )
        return judge(slo, samples)
