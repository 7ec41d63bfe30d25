"""The rounds of verification, with a rule in the place of replays."""

from dataclasses import replace
from pathlib import Path

import pytest
from fleet_files import inputs_of, stated
from judged_by_rule import RuleJudge, utilisations

from planner.fleet.plan import FleetPlanner, Search
from planner.fleet.savings import SavingsSearch
from planner.fleet.verify import EASED_PARTS, LOWEST_LIMIT, TIGHTENING, verified, with_report


@pytest.fixture(scope="module")
def planner():
    """Return the planner of Mélange's example."""
    return FleetPlanner(inputs_of(stated(), Path()), Search())


def _run(planner, late, *, num_rounds=8, solve=None, savings_search=None):
    """Return what verification ends with, the judge, and the limits that were asked for."""
    judge, asked = RuleJudge(late), []

    def solved(limits):
        asked.append(limits)
        return (solve or planner.solved)(limits)

    first = planner.solved({})
    ended = verified(
        first,
        solve=solved,
        judge=judge,
        num_rounds=num_rounds,
        savings_search=savings_search,
    )
    return ended, judge, asked


def _by_use(slowest):
    """Return a rule: a pool takes as long as it is used, times its slowness."""

    def late(plan, model):
        return {
            pool: use * slowest.get(pool, 0.1) for pool, use in utilisations(plan, model).items()
        }

    return late


def test_a_plan_that_holds_is_kept(planner):
    """One round, no other program, the plan as it was."""
    ended, judge, asked = _run(planner, _by_use({}))
    assert (ended.num_rounds, len(judge.plans), asked) == (1, 1, [])
    assert ended.judged.solved.plan == ended.first.plan
    plan = with_report(ended, judge)
    assert (plan.latency_verified, plan.verification.status) == (True, "met")
    assert plan.latency == "latency verified: every target met over 10 samples"
    assert plan.verification.replayed == "a rule"
    assert plan.verification.cost_before_usd_per_hour == plan.cost_usd_per_hour


def test_only_the_late_pool_is_tightened(planner):
    """Its limit falls to nine tenths of its load, round by round, until the target is met."""
    first = planner.solved({}).plan
    late = max(utilisations(first, "m"), key=utilisations(first, "m").get)
    ended, judge, asked = _run(planner, _by_use({late: 1.3}))
    assert {pool for limits in asked for pool in limits} == {("m", late)}
    assert asked[0]["m", late] == pytest.approx(TIGHTENING * utilisations(first, "m")[late])
    limits = [each["m", late] for each in asked]
    assert limits == sorted(limits, reverse=True)
    assert ended.judged.is_met
    assert ended.num_rounds == len(judge.plans) == len(asked) + 1
    assert utilisations(ended.judged.solved.plan, "m").get(late, 0) * 1.3 <= 1
    plan = with_report(ended, judge)
    assert plan.cost_usd_per_hour >= plan.verification.cost_before_usd_per_hour


def test_rounds_end_with_the_best_attained(planner):
    """Where load does not help, the least late plan is returned after the set number of rounds."""
    values = iter([3.0, 2.0, 2.5])
    ended, judge, asked = _run(planner, lambda plan, model: {"A100": next(values)}, num_rounds=3)
    assert (ended.num_rounds, len(asked)) == (3, 2)
    assert ended.judged.worst_ratio == 2.0
    plan = with_report(ended, judge)
    assert not plan.latency_verified
    assert plan.verification.status == "best attained"
    assert plan.latency == (
        "latency target missed: best attained TTFT p95 of m is 2 s, the limit 1 s"
    )


def test_rounds_end_where_no_program_has_a_plan(planner):
    """Tightened until a cap forbids more, the best attained is the answer."""
    ended, _, asked = _run(planner, lambda plan, model: {"A100": 5.0}, solve=lambda limits: None)
    assert (ended.num_rounds, len(asked)) == (1, 1 + len(EASED_PARTS))
    assert not ended.judged.is_met


def test_a_part_of_a_tightening_is_taken_where_the_whole_has_no_plan(planner):
    """Where caps leave no room for a tenth less load, what they do leave room for is spent."""
    least = 0.97 * max(utilisations(planner.solved({}).plan, "m").values())

    def solve(limits):
        return planner.solved(limits) if min(limits.values()) >= least else None

    def late(plan, model):
        return {"A100": 9.0 / sum(row.replicas for row in plan.replicas)}

    ended, _, _ = _run(planner, late, solve=solve)
    assert ended.num_rounds >= 2
    assert not ended.judged.is_met
    first, best = ended.first.plan, ended.judged.solved.plan
    assert sum(row.replicas for row in best.replicas) > sum(row.replicas for row in first.replicas)


def test_rounds_end_where_load_is_not_the_cause(planner):
    """A pool that is late almost empty is left alone, so that nothing is solved for ever."""
    first = planner.solved({}).plan
    pool = max(utilisations(first, "m"), key=utilisations(first, "m").get)
    steps = []

    def emptier(limits):
        steps.append(limits["m", pool])
        rows = tuple(
            row.model_copy(update={"utilisation_fraction": limits.get(("m", row.offer), 0.0)})
            for row in first.replicas
        )
        return replace(planner.solved({}), plan=first.model_copy(update={"replicas": rows}))

    ended, _, _ = _run(planner, lambda plan, model: {pool: 5.0}, num_rounds=500, solve=emptier)
    assert ended.num_rounds == len(steps) + 1 < 50
    assert LOWEST_LIMIT <= steps[-1] < LOWEST_LIMIT / TIGHTENING


def test_only_a_plan_that_holds_is_asked_for_savings(planner):
    """What is late gives nothing up."""
    search = SavingsSearch(RuleJudge(_by_use({})), planner.draw, Search().solver, lambda: False)
    assert _run(planner, _by_use({}), savings_search=search)[0].savings
    late, _, _ = _run(
        planner, lambda plan, model: {"A100": 5.0}, num_rounds=1, savings_search=search
    )
    assert late.savings == ()


def test_savings_stand_in_the_report(planner):
    """What was given up is named with what it saves, and the cost before is kept."""
    judge = RuleJudge(_by_use({}))
    first = planner.solved({})
    search = SavingsSearch(judge, planner.draw, Search().solver, lambda: False)
    ended = verified(first, solve=planner.solved, judge=judge, num_rounds=8, savings_search=search)
    plan = with_report(ended, judge)
    assert plan.verification.cost_before_usd_per_hour == first.plan.cost_usd_per_hour
    assert plan.cost_usd_per_hour < first.plan.cost_usd_per_hour
    saved = sum(saving.usd_per_hour for saving in ended.savings)
    assert plan.cost_usd_per_hour == pytest.approx(first.plan.cost_usd_per_hour - saved)
    assert plan.verification.savings == tuple(str(saving) for saving in ended.savings)


def test_a_cheaper_program_at_the_loads_that_held_is_asked_for_savings_too(planner):
    """Whatever the way, no single removal or swap is left that the judge would have allowed."""
    judge = RuleJudge(_by_use({"A10G": 0.2}))
    search = SavingsSearch(judge, planner.draw, Search().solver, lambda: False)
    ended = verified(
        planner.solved({}), solve=planner.solved, judge=judge, num_rounds=8, savings_search=search
    )
    assert search.run(ended.judged).savings == ()
    plan = ended.judged.solved.plan
    assert plan.bound_usd_per_hour <= plan.cost_usd_per_hour
    saved = sum(saving.usd_per_hour for saving in ended.savings)
    assert saved == pytest.approx(ended.first.plan.cost_usd_per_hour - plan.cost_usd_per_hour)


@pytest.mark.parametrize(("replays_allowed", "is_cut"), [(1, True), (100, False)])
def test_only_a_search_that_stopped_early_is_called_cut(planner, replays_allowed, is_cut):
    """Time that runs out while the last program is solved takes nothing from a complete search."""
    judge, used = RuleJudge(_by_use({})), []

    def is_time_up():
        used.append(None)
        return len(used) > replays_allowed

    def slow(limits):
        used.extend([None] * 1000)
        return planner.solved(limits)

    search = SavingsSearch(judge, planner.draw, Search().solver, is_time_up)
    ended = verified(
        planner.solved({}), solve=slow, judge=judge, num_rounds=8, savings_search=search
    )
    assert ended.savings or is_cut
    assert search.is_time_up()
    assert ended.is_search_cut == is_cut
