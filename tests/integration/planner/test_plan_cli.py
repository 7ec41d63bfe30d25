"""`motley plan fleet` as a user meets it: tables, plan file, exit codes, one-line errors."""

import copy
import json
from pathlib import Path

import pytest
import yaml

import motley
from planner.documents import read_document
from planner.errors import DocumentError
from planner.fleet_plan import FleetPlan

CONFIGS = Path(__file__).parents[3] / "configs" / "fleet"
EXAMPLE = CONFIGS / "melange-example.yaml"


def _changed(tmp_path, change):
    content = copy.deepcopy(yaml.safe_load(EXAMPLE.read_text()))
    change(content)
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_example_is_planned_at_468(tmp_path, capsys):
    """The published example gives 1 A10G and 1 A100 in the table and in the plan file."""
    target = tmp_path / "plan.json"
    assert motley.main(["plan", "fleet", str(EXAMPLE), "--output", str(target)]) == 0
    printed = capsys.readouterr().out
    assert "fleet: 1 x A10G + 1 x A100-80GB = $4.68/h (optimal: bound $4.68/h" in printed
    assert "cheapest single type: 2 x A100-80GB = $7.34/h; the mix saves 36.2%" in printed
    assert "latency not verified" in printed
    plan = read_document(target, FleetPlan)
    assert plan.status == "optimal"
    assert plan.cost_usd_per_hour == pytest.approx(4.68)
    assert {row.offer: row.replicas for row in plan.replicas} == {"A10G": 1, "A100-80GB": 1}
    assert plan.sizes[2].shares_fraction == pytest.approx({"A10G": 1 / 3, "A100-80GB": 2 / 3})
    assert (plan.latency_verified, plan.latency) == (False, "latency not verified")
    assert plan.cheapest_single_type.cost_usd_per_hour == pytest.approx(7.34)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_is_planned(path, tmp_path, capsys):
    """Each file in configs/fleet gives a proven plan whose shares and loads keep its promises."""
    target = tmp_path / "plan.json"
    assert motley.main(["plan", "fleet", str(path), "--output", str(target)]) == 0
    capsys.readouterr()
    plan = read_document(target, FleetPlan)
    assert plan.status == "optimal"
    assert plan.cost_usd_per_hour == pytest.approx(sum(r.cost_usd_per_hour for r in plan.replicas))
    for row in plan.replicas:
        assert row.utilisation_fraction <= row.utilisation_limit_fraction * (1 + 2e-5)
    for size in plan.sizes:
        expected = 1 if size.rate_requests_per_second > 0 else 0
        assert sum(size.shares_fraction.values()) == pytest.approx(expected)


def test_a_size_without_requests_is_said_to_have_no_plan(capsys):
    """The table does not invent shares for a size that nobody asks for."""
    assert motley.main(["plan", "fleet", str(CONFIGS / "capped-example.yaml")]) == 0
    assert "no requests, nothing planned" in capsys.readouterr().out


def _set_price(value):
    return lambda content: content["offers"][0].update(price_usd_per_hour=value)


BAD_INPUT = {
    "unknown key": (lambda c: c.update(utilization=0.5), "utilization: unknown key"),
    "unknown key in an offer": (
        lambda c: c["offers"][0].update(prize=1),
        "offers.0.prize: unknown key",
    ),
    "negative price": (_set_price(-1), "offers.0.price_usd_per_hour: Input should be greater"),
    "NaN price": (
        _set_price(float("nan")),
        "offers.0.price_usd_per_hour: Input should be a finite",
    ),
    "trace of a price": (_set_price(1e-300), "under 1e-6; write 0 or correct the unit"),
    "truth for a price": (_set_price(True), "not true or false; write a number (got True)"),
    "missing price": (
        lambda c: c["offers"][0].pop("price_usd_per_hour"),
        "offers.0.price_usd_per_hour: is required",
    ),
    "ragged throughput": (
        lambda c: c["offers"][1].update(throughput_requests_per_second=[[1, 2], [3]]),
        "offers.1.throughput_requests_per_second of A100-80GB has 1 numbers in row 2",
    ),
    "trace of a throughput": (
        lambda c: c["offers"][0].update(throughput_requests_per_second=[[1, 1], [1, 1e-9]]),
        "under 1e-6; write 0 or correct the unit (got 1e-09)",
    ),
    "histogram not summing to 1": (
        lambda c: c["workload"].update(histogram_fraction=[[0.2, 0.1], [0.5, 0.1]]),
        "workload: histogram_fraction sums to 0.9, not to 1",
    ),
    "no requests": (lambda c: c["workload"].pop("requests_per_second"), "holds no requests"),
    "no offers": (lambda c: c.update(offers=[]), "offers: Tuple should have at least 1 item"),
    "an offer twice": (
        lambda c: c["offers"][1].update(name="A10G"),
        "offers.1.name: A10G is there twice",
    ),
    "utilisation above 1": (
        lambda c: c.update(utilisation_limit_fraction=1.2),
        "utilisation_limit_fraction: Input should be less than or equal to 1 (got 1.2)",
    ),
    "verification asked": (lambda c: c.update(verification=True), "write `verification: off`"),
    "another schema version": (lambda c: c.update(schema_version=2), "schema_version"),
}


def _failure(capsys, arguments):
    code = motley.main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("motley: error: ")
    return code, captured.err


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_code_2(case, tmp_path, capsys):
    """The line names the file, the dotted path, the value and what to do; no file is written."""
    change, message = BAD_INPUT[case]
    path = _changed(tmp_path, change)
    target = tmp_path / "plan.json"
    code, error = _failure(capsys, ["plan", "fleet", str(path), "--output", str(target)])
    assert code == 2
    assert message in error
    assert str(path) in error
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: [
                o["throughput_requests_per_second"][1].__setitem__(1, 0) for o in c["offers"]
            ],
            "no offer can serve input 101-500, output 101-500 tokens (6 requests/s; "
            "A10G: throughput 0, A100-80GB: throughput 0)",
        ),
        (
            lambda c: (
                [offer.update(max_replicas=1) for offer in c["offers"]]
                and c["workload"].update(requests_per_second=60)
            ),
            "max_replicas binds (A10G 1, A100-80GB 1)",
        ),
    ],
)
def test_infeasible_is_one_line_and_code_3(change, message, tmp_path, capsys):
    """The line names the size or the caps that bind; no file is written."""
    target = tmp_path / "plan.json"
    path = _changed(tmp_path, change)
    code, error = _failure(capsys, ["plan", "fleet", str(path), "--output", str(target)])
    assert code == 3
    assert message in error
    assert not target.exists()


def test_missing_files_and_folders_are_one_line(tmp_path, capsys):
    """A missing input and a missing output folder end with code 2."""
    code, error = _failure(capsys, ["plan", "fleet", str(tmp_path / "none.yaml")])
    assert (code, "no such file" in error) == (2, True)
    target = tmp_path / "nowhere" / "plan.json"
    code, error = _failure(capsys, ["plan", "fleet", str(EXAMPLE), "--output", str(target)])
    assert (code, "there is no folder" in error) == (2, True)


@pytest.mark.parametrize(
    "words",
    [
        ["fleet"],
        ["flee", str(EXAMPLE)],
        ["fleet", str(EXAMPLE), "--time-limit-seconds", "nan"],
        ["fleet", str(EXAMPLE), "--time-limit-seconds", "-1"],
        ["fleet", str(EXAMPLE), "--gap-fraction", "two"],
    ],
)
def test_usage_errors_are_one_line_and_code_2(words, capsys):
    """Wrong words on the command line end like any other bad input."""
    assert _failure(capsys, ["plan", *words])[0] == 2


def test_no_words_print_the_help(capsys):
    """`motley plan` alone lists its subcommands."""
    assert motley.main(["plan"]) == 0
    assert "fleet" in capsys.readouterr().out


def test_a_plan_of_another_version_is_refused(tmp_path):
    """A reader refuses a plan whose layout it does not know."""
    target = tmp_path / "plan.json"
    assert motley.main(["plan", "fleet", str(EXAMPLE), "--output", str(target)]) == 0
    content = json.loads(target.read_text())
    target.write_text(json.dumps({**content, "schema_version": 2}))
    with pytest.raises(DocumentError, match=r"schema_version.*got 2"):
        read_document(target, FleetPlan)
