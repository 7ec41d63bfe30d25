"""A plan in words."""

import pytest
from fleet_files import inputs_of, served, stated
from rich.console import Console

from planner.fleet.fleet_config import FleetConfig
from planner.fleet.plan import FleetPlanner, Search, plan_fleet
from planner.fleet.report import comparison_line, latency_table, print_plan, summary_lines
from planner.fleet.single_types import single_type_fleets
from planner.fleet.verification import VerificationReport, VerifiedTarget
from planner.fleet_program import single_type


@pytest.fixture(scope="module")
def plan():
    """Return the plan of Mélange's example by the oracle: $4.68 against $7.34 of one type."""
    return plan_fleet(FleetConfig.model_validate(stated(shares="oracle"))).plan


def _report(*values, replayed_seconds=600.0):
    targets = tuple(
        VerifiedTarget(
            model="m",
            target=f"TTFT p9{index}",
            limit_seconds=1.0,
            value_seconds=value,
            half_width_seconds=None,
        )
        for index, value in enumerate(values)
    )
    return VerificationReport(
        status="met" if max(values) <= 1 else "best attained",
        replayed="a trace",
        num_requests=1000,
        replayed_seconds=replayed_seconds,
        num_samples=19,
        num_rounds=2,
        cost_before_usd_per_hour=4.68,
        savings=("1 x A10G removed: $1.01/h less",),
        targets=targets,
    )


def test_single_types_are_compared_with_the_program(plan):
    """What a replay changed of the plan alone is no saving of the mix."""
    assert comparison_line(plan) == (
        "cheapest single type: 2 x A100 = $7.34/h; the mix saves 36.2%"
    )
    cheaper = plan.model_copy(update={"cost_usd_per_hour": 1.0, "verification": _report(0.5)})
    assert comparison_line(cheaper) == (
        "cheapest single type (by the programs, before any replay): 2 x A100 = $7.34/h; "
        "the program's mix of $4.68/h saves 36.2%"
    )
    alone = plan.model_copy(update={"program_cost_usd_per_hour": 7.34})
    assert comparison_line(alone).endswith("mixing saves nothing")


def test_where_one_model_has_no_single_type_none_is_claimed(plan):
    """Half a comparison is none."""
    none = plan.model_copy(
        update={
            "single_type": tuple(
                fleet.model_copy(update={"cost_usd_per_hour": None}) for fleet in plan.single_type
            )
        }
    )
    assert comparison_line(none) == "cheapest single type: none can serve the workload alone"


def test_single_types_that_time_ran_out_on_are_called_unproven(monkeypatch, tmp_path):
    """A fleet that may not be the cheapest costs so much or less; one not found is not forbidden."""
    inputs = inputs_of(stated(shares="oracle"), tmp_path)
    problem = FleetPlanner(inputs, Search()).problem({})
    found = [
        single_type.SingleTypeFleet(0, "A100", "feasible", (0, 2), 7.34),
        single_type.SingleTypeFleet(0, "A10G", "time_limit", (), None),
    ]
    monkeypatch.setattr(single_type, "best_single_types", lambda *_, **__: found)
    a100, a10g = single_type_fleets(inputs, problem, solver=Search().solver, clock=lambda: 0.0)
    assert (a100.cost_usd_per_hour, a100.obstacle, a100.is_proven) == (7.34, "", False)
    assert (a10g.obstacle, a10g.is_proven) == ("not known: none found in 5 s", False)
    unproven = plan_fleet(inputs.config).plan.model_copy(update={"single_type": (a100, a10g)})
    assert comparison_line(unproven).startswith(
        "cheapest single type found, time ran out before proof: 2 x A100 = $7.34/h"
    )
    console = Console(record=True, width=200)
    print_plan(unproven, console)
    assert "$7.34 or less" in console.export_text()
    none = unproven.model_copy(update={"single_type": (a10g,)})
    assert comparison_line(none) == "cheapest single type: not known, time ran out"


def test_the_price_of_not_knowing_outputs_is_exact_only_where_the_oracle_is_proven():
    """An oracle's program with an open gap gives the most that the price can be."""
    plan = plan_fleet(FleetConfig.model_validate(stated())).plan
    words = "price of not knowing output lengths: "
    start = f"{words}$1.01/h (the program costs $5.69/h, with an oracle $4.68/h)"
    assert plan.oracle_bound_usd_per_hour == pytest.approx(plan.oracle_cost_usd_per_hour)
    assert start in summary_lines(plan)
    open_gap = plan.model_copy(update={"oracle_bound_usd_per_hour": 4.0})
    assert (
        f"{words}at most $1.69/h (the program costs $5.69/h, with an oracle at least $4.00/h)"
    ) in summary_lines(open_gap)


def test_verification_is_told_with_its_rounds_costs_and_savings(plan):
    """What was replayed, on how many samples, at what cost before and after."""
    report = _report(0.5)
    lines = summary_lines(plan.model_copy(update={"verification": report, "latency": "fine"}))
    assert "replayed: a trace (1,000 requests, 19 samples)" in lines
    assert "verification: 2 rounds, $4.68/h before, $4.68/h after" in lines
    assert "saving taken: 1 x A10G removed: $1.01/h less" in lines
    assert lines[-1] == "fine"


@pytest.mark.parametrize(
    ("value", "half_width", "words"),
    [
        (0.9, 0.05, "met"),
        (1.1, 0.05, "missed"),
        (0.9, 0.1, "met, the limit within ± 95 %"),
        (1.1, 0.2, "missed, the limit within ± 95 %"),
        (0.9, None, "met"),
    ],
)
def test_a_target_near_its_limit_is_called_so(value, half_width, words, plan):
    """Within its interval of the limit a value may be on the other side in truth."""
    (target,) = _report(value).targets
    near = target.model_copy(update={"half_width_seconds": half_width})
    assert near.is_certain == (half_width == 0.05)
    console = Console(record=True, width=200)
    console.print(latency_table(_report(value).model_copy(update={"targets": (near,)})))
    assert f" {words} " in console.export_text()


def test_a_miss_names_the_worst_target():
    """Of several missed limits the one that is missed by the most."""
    assert _report(0.5, 1.0).in_words == "latency verified: every target met over 19 samples"
    assert _report(1.2, 1.5, 0.3).in_words == (
        "latency target missed: best attained TTFT p91 of m is 1.5 s, the limit 1 s"
    )


def test_requests_drawn_from_a_grid_are_not_passed_for_recorded_ones():
    """Met or missed, the outcome says what stood in for a trace."""
    drawn = {"models_drawn_from_grid": ("m",)}
    words = " on requests drawn from the plan's grid of sizes (--trace replays recorded ones): "
    met, missed = (_report(value).model_copy(update=drawn).in_words for value in (0.5, 1.2))
    assert met == f"latency verified{words}every target met over 19 samples"
    assert missed.startswith(f"latency target missed{words}best attained")


def test_a_short_replay_verifies_nothing():
    """Targets met for two minutes count; met for less, the outcome says that it proves nothing."""
    assert _report(0.5, replayed_seconds=120).is_verified
    short = _report(0.5, replayed_seconds=7.25)
    assert not short.is_verified
    assert short.in_words.startswith(
        "latency not verified: every target met, but the replay lasts 7."
    )
    assert _report(2.0, replayed_seconds=7).in_words.startswith("latency target missed")


def test_a_model_without_requests_is_not_verified():
    """Targets met by one model say nothing of another."""
    half = _report(0.5).model_copy(update={"models_without_requests": ("n",)})
    assert not half.is_verified
    assert half.in_words == ("latency not verified: n had no requests; replay some of every model")


def test_the_price_of_tokens_needs_known_lengths(plan):
    """With means the price of a million tokens follows; without, none is made up."""
    assert not any(line.startswith("price: ") for line in summary_lines(plan))
    model = served()
    model["workload"] |= {
        "mean_input_tokens": [[50, 50], [300, 300]],
        "mean_output_tokens": [[50, 300], [50, 300]],
    }
    found = plan_fleet(FleetConfig.model_validate(stated(models=[model], shares="oracle"))).plan
    tokens_per_hour = 3600 * (6 * 100 + 3 * 350 + 15 * 350 + 6 * 600)
    usd = found.cost_usd_per_hour / tokens_per_hour * 1e6
    assert f"price: ${usd:,.2f} a million tokens, input and output together" in summary_lines(found)
