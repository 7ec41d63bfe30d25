"""Words for what makes a fleet problem infeasible, what binds, and what a change would cost."""

import time
from dataclasses import replace

import pytest
from fleet_programs import brute_force_cost, one_model, random_program

from planner.fleet_program.cap_raises import enough_caps, smallest_caps
from planner.fleet_program.infeasible import Hindrance, explain
from planner.fleet_program.problem import Cap, Rules
from planner.fleet_program.sensitivity import binding, one_more_and_one_fewer
from planner.fleet_program.single_type import best_single_types
from planner.fleet_program.solve import solve, unservable_rows
from planner.solvers import Highs, SolverChain


def _chain():
    return SolverChain([Highs()])


def _solve(problem):
    return solve(
        problem,
        solver=_chain(),
        time_limit_seconds=60,
        gap_fraction=1e-7,
        clock=time.perf_counter,
    )


def _explain(problem, **given):
    return explain(problem, solver=_chain(), clock=time.perf_counter, **given)


def _markets(problem, *markets):
    columns = tuple(
        replace(column, market=market, is_spot=market == "spot")
        for column, market in zip(problem.columns, markets, strict=True)
    )
    return replace(problem, columns=columns)


def test_a_size_nobody_serves_is_named_with_every_reason():
    """The message holds the row, the model, the offers and the caller's reasons."""
    problem = one_model([1.0, 1.0], [(1.0, [1.0, 0.0])])
    text = _explain(problem, why_not=lambda column, row: Hindrance("needs 48 GiB of 24"))
    assert text.startswith("no offer can serve row 1 of m (offer-0: needs 48 GiB of 24)")


def test_of_offers_that_are_too_slow_the_nearest_is_named_alone():
    """One short line with its value and the limit, however many there are."""
    problem = one_model([1.0], [(1.0, [0.0])] * 9)
    late = {"offer-4": Hindrance("a TPOT of 0.2 s, the limit is 0.1 s; take more", 2.0)}
    other = Hindrance("a TPOT of 0.5 s, the limit is 0.1 s; take more", 5.0)
    assert _explain(problem, why_not=lambda column, row: late.get(column.offer, other)) == (
        "no offer can serve row 0 of m: on offer-4, which comes nearest, a TPOT of 0.2 s, the "
        "limit is 0.1 s; nor can the other 8; loosen the limit, add a faster offer, or leave out "
        "these requests"
    )


def test_a_cap_names_its_smallest_raise():
    """A pool of two where three are needed rises to three."""
    problem = one_model([3.0], [(1.0, [1.0])], caps=(Cap("pool", 2, (0,)),))
    text = _explain(problem)
    assert text == "the caps bind: the smallest change is to raise pool from 2 to 3 GPUs"


def test_a_budget_names_the_cheapest_cost():
    """The budget asked for is what the cheapest plan costs."""
    problem = one_model([3.0], [(2.0, [1.0])], rules=Rules(budget_usd_per_hour=5.0))
    assert _explain(problem) == "the budget of 5 USD/h binds: raise it to 6.00 USD/h"


def test_a_spot_limit_names_a_limit_that_helps():
    """Where only spot serves half of the load, half must be allowed on spot."""
    problem = one_model(
        [1.0],
        [(1.0, [1.0]), (1.0, [2.0])],
        rules=Rules(spot_fraction_limit=0.2),
        caps=(Cap("own", 1, (1,)), Cap("spot", 1, (0,))),
    )
    slow = replace(problem.columns[1], loads=(2.0,))
    problem = _markets(replace(problem, columns=(problem.columns[0], slow)), "spot", "on-demand")
    text = _explain(problem)
    assert "the spot limit of 0.2 binds: raise it to about 0.5" in text


def test_a_bounded_change_names_the_step_that_helps():
    """From one replica to four takes a change of three."""
    problem = one_model([4.0], [(1.0, [1.0])], rules=Rules(max_change_replicas=1))
    current = replace(problem.columns[0], current_replicas=1)
    text = _explain(replace(problem, columns=(current,)))
    assert text == "the change of at most 1 replicas an offer binds: raise it to 3"


def test_a_market_that_alone_serves_a_row_is_named():
    """A row that only one market serves cannot survive that market."""
    problem = one_model([1.0, 1.0], [(1.0, [1.0, 1.0]), (1.0, [1.0, 0.0])])
    problem = replace(_markets(problem, "a", "b"), rules=Rules(survive_one_market=True))
    assert "(row 1 of m is served in market 'a' only)" in _explain(problem)


def test_causes_that_only_work_together_are_all_named():
    """Where neither the cap nor the budget alone is to blame, both are."""
    problem = one_model(
        [3.0],
        [(2.0, [1.0])],
        rules=Rules(budget_usd_per_hour=5.0),
        caps=(Cap("pool", 2, (0,)),),
    )
    text = _explain(problem)
    assert "the caps" in text
    assert "the budget of 5 USD/h" in text


@pytest.mark.parametrize("seed", range(60))
def test_every_infeasible_problem_gets_a_reason(seed):
    """Whatever the rules, an infeasible problem is explained in one line."""
    problem = random_program(seed)
    if _solve(problem).status == "infeasible":
        text = _explain(problem)
        assert text
        assert "\n" not in text


@pytest.mark.parametrize("seed", range(30))
def test_raised_caps_admit_a_plan_and_fewer_do_not(seed):
    """The smallest raise makes brute force succeed; with one unit less it fails."""
    problem = random_program(seed, models=1, rules=Rules(), capped=False)
    if unservable_rows(problem):
        return
    capped = replace(problem, caps=(Cap("pool", 0, tuple(range(len(problem.columns)))),))
    (limit,) = smallest_caps(capped, _chain())
    enough = replace(problem, caps=(replace(capped.caps[0], limit=limit),))
    assert brute_force_cost(enough) is not None
    less = replace(problem, caps=(replace(capped.caps[0], limit=limit - 1),))
    assert brute_force_cost(less) is None
    assert enough_caps(capped, _solve(problem).counts)[0] >= limit


def test_what_binds_is_named():
    """A pool in use to the last GPU and a spent budget bind."""
    problem = one_model(
        [3.0],
        [(1.0, [1.0]), (2.0, [1.0])],
        rules=Rules(budget_usd_per_hour=4.5),
        caps=(Cap("cheap", 2, (0,)),),
    )
    assert binding(problem, _solve(problem)) == ("cheap", "budget")


def test_a_spot_limit_binds_only_what_spot_could_serve():
    """A limit of 0 says nothing about rows that no spot offer serves."""
    rules = Rules(spot_fraction_limit=0.0)
    problem = one_model([1.0, 1.0], [(1.0, [1.0, 1.0]), (0.5, [1.0, 0])], rules=rules)
    assert binding(problem, _solve(problem)) == ()
    spot = replace(problem.columns[1], is_spot=True, market="spot")
    with_spot = replace(problem, columns=(problem.columns[0], spot))
    assert binding(with_spot, _solve(with_spot)) == ("spot limit of row 0 of m",)


def _changes(problem, seconds=20):
    """Return the costs of one more and one fewer by (name, change); a status where there is no plan."""
    changes = one_more_and_one_fewer(
        problem,
        _solve(problem),
        solver=_chain(),
        seconds=seconds,
        gap_fraction=1e-7,
        clock=time.perf_counter,
    )
    costs = [row.cost_change_usd_per_hour for row in changes.rows]
    prices = {
        (row.name, row.change): row.status if cost is None else pytest.approx(cost)
        for row, cost in zip(changes.rows, costs, strict=True)
    }
    return prices | ({"left": changes.num_left} if changes.num_left else {})


def test_one_more_and_one_fewer_have_their_price():
    """A cheap pool of two: a third GPU saves a dollar, one fewer costs one."""
    cheap = Cap("cheap", 2, (0,))
    assert _changes(one_model([3.0], [(1.0, [1.0]), (2.0, [1.0])], caps=(cheap,))) == {
        ("cheap", 1): -1.0,
        ("cheap", -1): 1.0,
        ("m/offer-0", 1): "infeasible",
        ("m/offer-0", -1): 1.0,
        ("m/offer-1", 1): 1.0,
        ("m/offer-1", -1): "infeasible",
    }


def test_a_rule_has_the_price_of_the_fleet_without_it():
    """Surviving the loss of one replica of two costs the third."""
    rules = Rules(survive_one_replica=True)
    assert _changes(one_model([2.0], [(2.0, [1.0])], rules=rules)) == {
        ("without surviving the loss of one replica", 0): -2.0,
        ("m/offer-0", 1): 2.0,
        ("m/offer-0", -1): "infeasible",
    }


def test_an_offer_out_of_use_is_worth_what_one_of_it_would_add():
    """Offers in use come first; what serves nothing has no price."""
    problem = one_model([3.0], [(2.5, [1.0]), (2.0, [1.0]), (1.0, [0.0])])
    assert list(_changes(problem).items()) == [
        (("m/offer-1", 1), 2.0),
        (("m/offer-1", -1), 0.5),
        (("m/offer-0", 1), 0.5),
    ]


def test_time_ends_a_sensitivity_early():
    """With no time nothing is solved again, and what was left is counted."""
    assert _changes(one_model([3.0], [(1.0, [1.0])]), seconds=0) == {"left": 2}


def test_single_types_span_markets_and_keep_the_rules():
    """A fleet of one type may use both of its markets, and must survive either."""
    problem = one_model([1.0], [(1.0, [1.0]), (2.0, [1.0]), (1.0, [1.0])])
    columns = [
        replace(column, gpu_type=gpu_type, market=market)
        for column, gpu_type, market in zip(
            problem.columns, ("L4", "L4", "T4"), ("a", "b", "a"), strict=True
        )
    ]
    problem = replace(problem, columns=tuple(columns), rules=Rules(survive_one_market=True))
    l4, t4 = best_single_types(problem, solver=_chain(), clock=time.perf_counter)
    assert (l4.gpu_type, l4.counts, l4.cost_usd_per_hour) == ("L4", (1, 1, 0), 3.0)
    assert (t4.gpu_type, t4.cost_usd_per_hour) == ("T4", None)
