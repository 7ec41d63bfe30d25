"""`motley plan fleet` as a user meets it: tables, plan file, exit codes."""

from pathlib import Path

import pytest
import yaml
from fleet_files import modelled, served, stated, written
from plan_commands import failure, planned, refused

import motley

CONFIGS = Path(__file__).parents[3] / "configs" / "fleet"


EXAMPLE = CONFIGS / "melange-example.yaml"


def test_the_example_is_planned_at_468(tmp_path, capsys):
    """The published example gives 1 A10G and 1 A100 in the table and in the plan file."""
    plan = planned(EXAMPLE, tmp_path)
    printed = capsys.readouterr().out
    assert "fleet: 1 x A10G + 1 x A100-80GB = $4.68/h (optimal: bound $4.68/h" in printed
    assert "cheapest single type: 2 x A100-80GB = $7.34/h; the mix saves 36.2%" in printed
    assert "shares follow output lengths (the oracle form): no router can know them" in printed
    assert "latency not verified" in printed
    assert plan.status == "optimal"
    assert plan.cost_usd_per_hour == pytest.approx(4.68)
    assert {row.offer: row.replicas for row in plan.replicas} == {"A10G": 1, "A100-80GB": 1}
    assert plan.weights[2].shares_fraction == pytest.approx({"A10G": 1 / 3, "A100-80GB": 2 / 3})
    assert plan.weights[2].weights == {"A10G": 333, "A100-80GB": 667}
    assert (plan.latency_verified, plan.latency) == (False, "latency not verified")
    (single,) = plan.cheapest_single_types
    assert single.cost_usd_per_hour == pytest.approx(7.34)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_planned(path, tmp_path, capsys):
    """Each file in configs/fleet gives a plan whose shares, loads and latency keep their promises."""
    content = yaml.safe_load(path.read_text())
    if content.get("verification") is not False:
        # The file as it is but for how much is replayed.
        content["verification"] = {"max_requests": 4000, "savings_seconds": 5}
    plan = planned(written(content, tmp_path), tmp_path)
    printed = capsys.readouterr().out
    assert plan.latency.split(":")[0] in ("latency verified", "latency not verified")
    assert plan.latency in printed
    assert plan.cost_usd_per_hour == pytest.approx(sum(r.cost_usd_per_hour for r in plan.replicas))
    assert plan.gap_fraction <= 1e-6
    for row in plan.replicas:
        assert row.utilisation_fraction <= row.utilisation_limit_fraction * (1 + 2e-5)
    for row in plan.weights:
        assert sum(row.shares_fraction.values()) == pytest.approx(1)
    assert {fleet.model for fleet in plan.single_type} == {model.name for model in plan.models}


def test_the_price_of_not_knowing_outputs_is_printed(tmp_path, capsys):
    """Shares by input cost more than the oracle's here, and both costs are named."""
    plan = planned(written(stated(), tmp_path), tmp_path)
    printed = capsys.readouterr().out
    assert plan.oracle_cost_usd_per_hour == pytest.approx(4.68)
    extra = plan.program_cost_usd_per_hour - 4.68
    assert f"price of not knowing output lengths: ${extra:,.2f}/h" in printed


def test_ranges_without_requests_belong_to_the_next(tmp_path, capsys):
    """The table holds no gap: what nobody asked for goes where the next longer inputs go."""
    content = stated(models=[served(rates=((0, 0), (15, 6)))])
    planned(written(content, tmp_path), tmp_path)
    assert "1-500" in capsys.readouterr().out


def test_no_plan_in_time_is_code_4(tmp_path, capsys, monkeypatch):
    """A search that ends without a plan or a proof says what to do."""
    from planner.fleet import plan
    from planner.solvers import Answer, SolverChain

    class Slow:
        name = "slow"

        def minimise(self, program, *, time_limit_seconds, gap_fraction):
            return Answer("time_limit", float("-inf"), self.name)

    chain = SolverChain([Slow()])
    original = plan.plan_fleet
    monkeypatch.setattr(
        plan,
        "plan_fleet",
        lambda config, *, folder, search: original(
            config, folder=folder, search=plan.Search(solver=chain, time_limit_seconds=2)
        ),
    )
    code, error = refused(stated(), tmp_path, capsys)
    assert code == 4
    assert "no plan was found within 2 s; raise the time limit" in error


def test_missing_files_and_folders_are_one_line(tmp_path, capsys):
    """A missing input and a missing output folder end with code 2."""
    code, error = failure(capsys, ["plan", "fleet", str(tmp_path / "none.yaml")])
    assert (code, "no such file" in error) == (2, True)
    target = tmp_path / "nowhere" / "plan.json"
    code, error = failure(capsys, ["plan", "fleet", str(EXAMPLE), "--output", str(target)])
    assert (code, "there is no folder" in error) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ["fleet", "FILE", "--output", "FILE"],
        ["fleet", "FILE", "--plot", "FILE"],
        ["pareto", "FILE", "--output", "FILE"],
        ["simulate", "FILE", "--output", "FILE"],
        ["simulate", str(EXAMPLE), "--trace", "FILE", "--output", "FILE"],
        ["workload", "FILE", "--trace-output", "FILE"],
        ["profile", "--from", str(EXAMPLE), "FILE", "--output", "FILE"],
    ],
)
def test_no_command_writes_over_what_it_reads(words, tmp_path, capsys):
    """An output that names an input is refused before the work; the input stays as it was."""
    path = tmp_path / "read.jsonl"
    path.write_text("{}")
    words = [str(path) if word == "FILE" else word for word in words]
    code, error = failure(capsys, ["plan", *words])
    assert (code, f"{path}: is both read and to be written" in error) == (2, True)
    assert path.read_text() == "{}"


@pytest.mark.parametrize(
    "words",
    [
        ["fleet"],
        ["flee", str(EXAMPLE)],
        ["fleet", str(EXAMPLE), "--time-limit-seconds", "nan"],
        ["fleet", str(EXAMPLE), "--time-limit-seconds", "-1"],
        ["fleet", str(EXAMPLE), "--gap-fraction", "two"],
        ["fleet", str(EXAMPLE), "--plot", "plan.txt"],
        ["explain", str(EXAMPLE), "--changes-seconds", "inf"],
        ["pareto", str(EXAMPLE), "--factors", "1,two"],
        ["pareto", str(EXAMPLE), "--factors", "nan"],
        ["pareto", str(EXAMPLE), "--factors", ""],
        ["simulate", "none.json"],
        ["simulate", str(EXAMPLE)],
        ["simulate", str(EXAMPLE), "--requests-per-second", "nan"],
    ],
)
def test_usage_errors_are_one_line_and_code_2(words, capsys):
    """Wrong words on the command line end like any other bad input."""
    assert failure(capsys, ["plan", *words])[0] == 2


def test_no_words_print_the_help(capsys):
    """`motley plan` alone lists its subcommands."""
    assert motley.main(["plan"]) == 0
    printed = capsys.readouterr().out
    for name in ("fleet", "simulate", "explain", "pareto", "workload"):
        assert name in printed


def test_a_bounded_change_keeps_what_runs(tmp_path, capsys):
    """Against a current plan no offer changes by more than is allowed."""
    first = planned(written(stated(), tmp_path), tmp_path)
    running = {row.offer: row.replicas for row in first.replicas}
    (tmp_path / "plan.json").rename(tmp_path / "current.json")
    content = stated(
        models=[served(rates=((12, 6), (30, 12)))],
        current_plan="current.json",
        max_change_replicas=1,
    )
    plan = planned(written(content, tmp_path), tmp_path)
    for offer in ("A10G", "A100"):
        now = {row.offer: row.replicas for row in plan.replicas}.get(offer, 0)
        assert abs(now - running.get(offer, 0)) <= 1
    content["offers"] = content["offers"][1:]
    content["offers"][0]["name"] = "renamed"
    (tmp_path / "plan.json").unlink()
    capsys.readouterr()
    code, error = refused(content, tmp_path, capsys)
    assert code == 2
    assert "which the file to plan does not offer" in error


def test_prices_come_from_the_files_own_catalogue(tmp_path, capsys):
    """A catalogue beside the file prices a market and region that the built-in one does not list."""
    (tmp_path / "prices.yaml").write_text(
        "schema_version: 1\nprices:\n"
        "  - {gpu: L40S, market: spot, region: basement, usd_per_hour: 0.25, "
        'source: a neighbour, date: "2026"}\n'
    )
    content = modelled(verification=False, catalogues=["prices.yaml"])
    content["offers"] = [{"gpu": "L40S", "market": "spot", "region": "basement"}]
    plan = planned(written(content, tmp_path), tmp_path)
    assert plan.replicas[0].price_usd_per_hour == 0.25
    assert plan.replicas[0].offer == "L40S/spot/basement"
    del content["catalogues"]
    (tmp_path / "plan.json").unlink()
    capsys.readouterr()
    code, error = refused(content, tmp_path, capsys)
    assert (code, "no spot price of L40S in basement is known" in error) == (2, True)


def test_the_same_file_gives_the_same_plan(tmp_path, capsys):
    """Whatever ties there are, two runs write the same document but for the time they took."""
    content = modelled(verification={"max_requests": 1000})
    path = written(content, tmp_path)
    first, second = (planned(path, tmp_path).model_dump() for _ in range(2))
    assert first.pop("solve_seconds") > 0
    assert second.pop("solve_seconds") > 0
    assert first == second


def test_a_plan_that_fails_leaves_an_older_one_alone(tmp_path, capsys):
    """The file that stands there is replaced by a whole plan or not at all."""
    target = tmp_path / "plan.json"
    planned(written(stated(), tmp_path), tmp_path)
    before = target.read_text()
    capsys.readouterr()
    path = written(stated(budget_usd_per_hour=1), tmp_path)
    assert failure(capsys, ["plan", "fleet", str(path), "--output", str(target)])[0] == 3
    assert target.read_text() == before
