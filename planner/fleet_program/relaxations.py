"""Each family of constraints that may make a fleet problem infeasible, and the problem without it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from planner.fleet_program.problem import FleetProblem, Rules


@dataclass(frozen=True, slots=True)
class Relaxation:
    """One family of constraints."""

    key: str
    """`caps`, or the name of the rule."""
    words: str
    """What it demands, for messages."""
    without: Callable[[FleetProblem], FleetProblem]
    """Returns a problem without the family."""


def relaxations(problem: FleetProblem) -> tuple[Relaxation, ...]:
    """Return the families that the problem states."""
    rules = problem.rules
    stated: list[Relaxation] = []
    if problem.caps:
        stated.append(Relaxation("caps", "the caps", lambda p: replace(p, caps=())))
    if rules.budget_usd_per_hour is not None:
        words = f"the budget of {rules.budget_usd_per_hour:g} USD/h"
        stated.append(_rule("budget_usd_per_hour", words, None))
    if rules.spot_fraction_limit is not None:
        words = f"the spot limit of {rules.spot_fraction_limit:g} of each size"
        stated.append(_rule("spot_fraction_limit", words, None))
    if rules.max_change_replicas is not None:
        words = f"the change of at most {rules.max_change_replicas} replicas of an offer"
        stated.append(_rule("max_change_replicas", words, None))
    if rules.survive_one_replica:
        stated.append(_rule("survive_one_replica", "surviving the loss of one replica", False))
    if rules.survive_one_market:
        stated.append(_rule("survive_one_market", "surviving the loss of one market", False))
    if rules.min_replicas_used > 1:
        words = f"the minimum of {rules.min_replicas_used} replicas of a used offer"
        stated.append(_rule("min_replicas_used", words, 0))
    if any(rules.min_replicas_of_model):
        stated.append(_rule("min_replicas_of_model", "the minimum replicas of a model", ()))
    return tuple(stated)


def with_rule(problem: FleetProblem, name: str, value: object) -> FleetProblem:
    """Return the problem with one rule replaced."""
    rules: Rules = replace(problem.rules, **{name: value})  # type: ignore[arg-type]
    return replace(problem, rules=rules)


def _rule(name: str, words: str, value: object) -> Relaxation:
    return Relaxation(name, words, lambda problem: with_rule(problem, name, value))
