"""The search for replicas to give up, with a rule in the place of replays."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from fleet_files import inputs_of, served, stated
from judged_by_rule import RuleJudge, counts_of

from planner.errors import WorkloadError
from planner.fleet.plan import FleetPlanner, Search
from planner.fleet.savings import SavingsSearch


def _offers(*prices):
    """Return offers named a, b, c ... of these prices, each good for one request a second."""
    return [
        {
            "name": name,
            "price_usd_per_hour": price,
            "throughput_requests_per_second": [[1, 1], [1, 1]],
        }
        for name, price in zip("abc", prices, strict=False)
    ]


def _search(content, late, *, is_time_up=lambda: False, current=None, most_load=math.inf):
    """Return the plan before, what the search ends with, its savings, and the plans it tried."""
    inputs = inputs_of(content, Path())
    planner = FleetPlanner(inputs, Search())
    judge = RuleJudge(late)
    first = judge.judged(planner.solved({}))
    problem = first.solved.problem
    columns = tuple(replace(each, most_load_fraction=most_load) for each in problem.columns)
    first = replace(first, solved=replace(first.solved, problem=replace(problem, columns=columns)))
    judge.plans.clear()
    search = SavingsSearch(judge, planner.draw, Search().solver, is_time_up)
    found = search.run(first)
    savings = [str(saving) for saving in found.savings]
    return first.solved.plan, found.judged.solved.plan, savings, judge.plans


def _three(**fields):
    """Return a file of which three replicas of offer a are the cheapest plan."""
    return stated(
        models=[served(rates=((1, 0), (1, 0)), **fields)],
        offers=_offers(2.0),
        utilisation_limit_fraction=0.75,
    )


def _needs(count):
    """Return a rule: on time with at least so many replicas."""
    return lambda plan, model: {
        name: 0.5 if sum(counts_of(plan).values()) >= count else 2.0 for name in counts_of(plan)
    }


def test_replicas_go_until_one_more_would_be_late():
    """Three are planned, two hold: one is removed, and removing another was tried."""
    before, after, savings, tried = _search(_three(), _needs(2))
    assert (counts_of(before), counts_of(after)) == ({"a": 3}, {"a": 2})
    assert savings == ["1 x a removed: $2.00/h less"]
    assert tried[-1] == {"a": 1}
    assert after.status == "feasible"
    assert after.bound_usd_per_hour <= after.cost_usd_per_hour == pytest.approx(4.0)


def test_below_capacity_the_shares_stay_and_the_replay_decides():
    """With one replica for a load of two no even sharing exists; the old shares are tried."""
    _, after, savings, _ = _search(_three(), _needs(1))
    assert counts_of(after) == {"a": 1}
    assert len(savings) == 2
    assert after.replicas[0].utilisation_fraction == pytest.approx(2.0)


def test_a_measured_replica_never_gets_more_than_it_kept_pace_with():
    """A replay would allow twice its rates; runs at one and a half times them piled up."""
    _, after, savings, tried = _search(_three(), _needs(1), most_load=1.5)
    assert counts_of(after) == {"a": 2}
    assert len(savings) == 1
    assert {"a": 1} not in tried


def _from_one_of_the_dearest(late):
    """Return what a search makes of one replica of offer a, with b and c there to swap for."""
    content = stated(
        models=[served(rates=((1, 0), (0, 0)))],
        offers=_offers(5.0, 3.0, 1.0),
        utilisation_limit_fraction=1.0,
    )
    # Only offer a serves, until the others are there to swap for.
    content["offers"][1]["max_replicas"] = content["offers"][2]["max_replicas"] = 0
    inputs = inputs_of(content, Path())
    planner = FleetPlanner(inputs, Search())
    free = inputs_of(stated(models=content["models"], offers=_offers(5.0, 3.0, 1.0)), Path())
    judge = RuleJudge(late)
    first = judge.judged(planner.solved({}))
    loose = replace(
        first, solved=replace(first.solved, problem=FleetPlanner(free, Search()).problem())
    )
    judge.plans.clear()
    search = SavingsSearch(judge, planner.draw, Search().solver, lambda: False)
    found = search.run(loose)
    return [str(saving) for saving in found.savings], counts_of(found.judged.solved.plan)


def test_the_largest_saving_is_tried_first():
    """The dearest replica's removal, its swap for the next cheaper offer, and so on downwards."""
    savings, counts = _from_one_of_the_dearest(
        lambda plan, model: dict.fromkeys(counts_of(plan), 0.5)
    )
    assert savings == [
        "1 x a swapped for 1 x b: $2.00/h less",
        "1 x b swapped for 1 x c: $2.00/h less",
    ]
    assert counts == {"c": 1}


def test_where_the_next_cheaper_offer_is_late_a_cheaper_one_may_not_be():
    """Price is not speed: every cheaper offer is tried."""
    savings, counts = _from_one_of_the_dearest(
        lambda plan, model: {name: 2.0 if name == "b" else 0.5 for name in counts_of(plan)}
    )
    assert savings == ["1 x a swapped for 1 x c: $4.00/h less"]
    assert counts == {"c": 1}


def test_the_last_replica_of_a_size_is_never_removed():
    """A plan that leaves requests with nobody is no saving."""
    _, after, savings, _ = _search(_three(), _needs(0))
    assert counts_of(after) == {"a": 1}
    assert len(savings) == 2


def test_requests_that_fit_nowhere_are_no_saving():
    """Where a replay finds that some request fits no replica that is left, the replica stays."""

    def late(plan, model):
        if counts_of(plan)["a"] < 3:
            raise WorkloadError("a request fits none")
        return {"a": 0.5}

    _, after, savings, tried = _search(_three(), late)
    assert (counts_of(after), savings) == ({"a": 3}, [])
    assert {"a": 2} in tried


@pytest.mark.parametrize(
    "content",
    [
        _three(min_replicas=3),
        _three() | {"min_replicas_used": 3},
    ],
)
def test_minima_are_kept(content):
    """The file's least counts hold for savings too, without a replay."""
    _, after, savings, tried = _search(content, _needs(0))
    assert (counts_of(after), savings, tried) == ({"a": 3}, [], [])


def test_a_swap_keeps_caps():
    """A cheaper offer at its cap takes no replica."""
    content = _three()
    content["offers"] = [*_offers(2.0, 1.0)]
    content["offers"][1]["max_replicas"] = 1
    before, after, savings, tried = _search(content, _needs(3))
    assert counts_of(before) == counts_of(after) == {"a": 2, "b": 1}
    assert savings == []
    assert all(plan.get("b", 0) <= 1 for plan in tried)


def test_the_spot_limit_is_kept():
    """Without room on demand the shares on spot would pass the limit, so the replica stays."""
    content = _three() | {"max_spot_fraction": 0.5}
    content["offers"] = _offers(2.0, 1.0)
    content["offers"][1]["market"] = "spot"
    before, after, _, _ = _search(content, _needs(0))
    assert set(counts_of(before)) == {"a", "b"}
    for row in after.weights:
        assert row.shares_fraction.get("b", 0.0) <= 0.5 + 1e-6


def test_owned_replicas_are_not_given_up():
    """What costs nothing saves nothing."""
    content = _three()
    content["offers"][0] |= {"market": "owned", "price_usd_per_hour": 0, "max_replicas": 9}
    _, _, savings, tried = _search(content, _needs(0))
    assert (savings, tried) == ([], [])


def test_the_search_ends_when_its_time_is_up():
    """It is asked before each replay, and what was found by then is kept."""
    answers = iter([False, True])
    _, after, savings, _ = _search(_three(), _needs(1), is_time_up=lambda: next(answers))
    assert counts_of(after) == {"a": 2}
    assert len(savings) == 1


def test_a_saving_of_one_model_leaves_the_shares_of_others():
    """A model that is not replayed again keeps the weights that it was replayed with."""
    content = stated(
        models=[served("one", rates=((1, 0), (1, 0))), served("two", rates=((1, 0), (1, 0)))],
        offers=[
            {
                "name": name,
                "price_usd_per_hour": price,
                "max_replicas": 3,
                "throughput_requests_per_second": {
                    "one": [[1, 1], [1, 1]],
                    "two": [[1, 1], [1, 1]],
                },
            }
            for name, price in (("a", 2.0), ("b", 2.0))
        ],
        utilisation_limit_fraction=0.75,
    )
    planner = FleetPlanner(inputs_of(content, Path()), Search())
    # Pool b was tightened for model two: an even sharing would undo that.
    tight = planner.solved({("two", "b"): 0.4})

    def late(plan, model):
        spare = sum(row.replicas for row in plan.replicas if row.model == "one") >= 2
        return dict.fromkeys(counts_of(plan), 0.5 if spare or model == "two" else 2.0)

    judge = RuleJudge(late)
    search = SavingsSearch(judge, planner.draw, Search().solver, lambda: False)
    before, judged = tight.plan, []
    original = judge.of_model

    def noted(plan, model):
        judged.append((model, [row for row in plan.weights if row.model == model]))
        return original(plan, model)

    judge.of_model = noted
    found = search.run(judge.judged(tight))
    ended, savings = found.judged, found.savings
    assert savings
    for model in ("one", "two"):
        kept = [row for row in ended.solved.plan.weights if row.model == model]
        assert (model, kept) in judged
    assert [row for row in before.weights if row.model == "two"]
