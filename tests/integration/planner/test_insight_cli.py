"""`motley plan explain` and `pareto`, and pictures of plans."""

import itertools
import json
from importlib import util
from pathlib import Path

import pytest
from fleet_files import modelled, served, stated, written

import motley
from planner.fleet import plan

PNG = b"\x89PNG\r\n\x1a\n"


def _chat(**changes):
    """Return a modelled file over ten seconds of chat, not verified."""
    content = modelled(verification=False, **changes)
    content["models"][0]["workload"] |= {"requests_per_second": 12, "duration_seconds": 60}
    return content


def _run(capsys, *words):
    code = motley.main(["plan", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def _row(printed, *words):
    """Return the cells of the first table row that holds all the words."""
    rows = [line for line in printed.splitlines() if all(word in line for word in ("│", *words))]
    assert rows, f"no row holds {words}"
    return [cell.strip() for cell in rows[0].split("│")[1:-1]]


def test_explain_prices_one_more_and_one_fewer(tmp_path, capsys):
    """Of Mélange's example the A100 is worth what the fleet without it costs more, to the cent."""
    content = stated(shares="oracle", caps=[{"max_gpus": 20}])
    content["offers"][0]["max_replicas"] = 1
    code, printed, _ = _run(capsys, "explain", written(content, tmp_path))
    assert code == 0
    assert "binds: max_replicas of A10G" in printed
    # Without the A10G two A100 carry everything: 7.34 - 4.68. One A10G more changes nothing.
    assert _row(printed, "m/A10G", "-1") == ["m/A10G", "-1", "+$2.66", "exact"]
    assert _row(printed, "max_replicas of A10G", "-1")[2:] == ["+$2.66", "exact"]
    assert _row(printed, "max_replicas of A10G", "+1")[2] == "+$0.00"
    # One A10G alone cannot stand in for the A100.
    assert _row(printed, "m/A100", "-1")[2] == "infeasible"
    assert "cheapest single type: 2 x A100 = $7.34/h; the mix saves 36.2%" in printed
    assert _row(printed, "m", "A100", "stated")[2] == "stated 100%"


def test_explain_reads_and_solves_its_file_once(tmp_path, capsys, monkeypatch):
    """Beside the changed fleets there is one program, and no oracle's."""
    calls = []
    for name in ("fleet_inputs", "solve"):
        original = getattr(plan, name)

        def counted(*arguments, name=name, original=original, **options):
            calls.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(plan, name, counted)
    code, printed, _ = _run(capsys, "explain", written(stated(), tmp_path))
    assert (code, calls) == (0, ["fleet_inputs", "solve"])
    assert "cheapest single type: 2 x A100 = $7.34/h" in printed


def test_explain_names_what_ends_the_rate_of_modelled_offers(tmp_path, capsys):
    """Each offer in use shows which limit ends its rate, by share of its load."""
    code, printed, _ = _run(capsys, "explain", written(_chat(), tmp_path))
    assert code == 0
    assert "binds: no cap, budget or spot limit; prices and speeds alone decide" in printed
    limits = _row(printed, "L40S", "%")[2]
    shares = [int(part.rpartition(" ")[2].rstrip("%")) for part in limits.split(", ")]
    assert sum(shares) == pytest.approx(100, abs=2)
    assert {part.partition(" ")[0] for part in limits.split(", ")} <= {
        "compute",
        "memory",
        "sequences",
        "ttft",
        "tpot",
    }


def test_explain_of_what_has_no_plan_is_code_3(tmp_path, capsys):
    """The reason is that of `motley plan fleet`, in one line."""
    content = stated(budget_usd_per_hour=1)
    code, printed, error = _run(capsys, "explain", written(content, tmp_path))
    assert (code, printed, error.count("\n")) == (3, "", 1)
    assert "the budget of 1 USD/h binds" in error


def test_a_looser_target_never_costs_more(tmp_path, capsys):
    """The front falls from the tightest limits to the loosest, and infeasible ends come first."""
    target = tmp_path / "front.json"
    words = ["pareto", written(_chat(), tmp_path), "--output", target]
    code, printed, _ = _run(capsys, *words, "--factors", "3,0.05,0.5,0.7,1,1.5,0.2,2")
    assert code == 0
    assert "latency not verified" in printed
    content = json.loads(target.read_text())
    assert content["latency"] == "latency not verified"
    points = content["points"]
    assert [point["factor"] for point in points] == [0.05, 0.2, 0.5, 0.7, 1, 1.5, 2, 3]
    costs = [point["cost_usd_per_hour"] for point in points]
    feasible = [cost for cost in costs if cost is not None]
    assert 4 <= len(feasible) < len(costs)
    assert costs[len(costs) - len(feasible) :] == feasible
    for before, after in itertools.pairwise(feasible):
        assert after <= before * (1 + 1e-4)
    assert points[0]["mix"] == "infeasible"
    assert "TPOT 0.003 s" in points[0]["limits"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (stated(), "no model has an slo, so there is no target to vary"),
        (
            stated(models=[served(slo={"tpot_seconds": 1})]),
            "every offer states throughputs, which hold for one target alone",
        ),
    ],
)
def test_a_front_needs_a_target_to_vary(content, message, tmp_path, capsys):
    """Stated throughputs know no other target: code 2, one line."""
    code, printed, error = _run(capsys, "pareto", written(content, tmp_path))
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert message in error


def test_plots_are_png_files(tmp_path, capsys):
    """Mix, single types and front are drawn beside the plan; the front alone, too."""
    pytest.importorskip("matplotlib")
    path = written(_chat(offers=_chat()["offers"][2:]), tmp_path)
    for words in (["fleet"], ["pareto", "--factors", "0.05,1,2"]):
        picture = tmp_path / f"{words[0]}.png"
        code, printed, error = _run(capsys, words[0], path, *words[1:], "--plot", picture)
        assert (code, error) == (0, "")
        assert picture.read_bytes().startswith(PNG)
        assert f"plot written to {picture}" in printed


def test_a_plan_without_a_front_is_drawn_too(tmp_path, capsys):
    """Where no target can be varied the picture holds mix and single types alone."""
    pytest.importorskip("matplotlib")
    picture = tmp_path / "plan.png"
    assert _run(capsys, "fleet", written(stated(), tmp_path), "--plot", picture)[0] == 0
    assert picture.read_bytes().startswith(PNG)


@pytest.mark.parametrize("command", ["fleet", "pareto"])
def test_without_matplotlib_a_plot_is_refused_before_the_work(
    command, tmp_path, capsys, monkeypatch
):
    """The line names the package and how to install it; nothing is planned or written."""
    found = util.find_spec
    monkeypatch.setattr(
        "planner.plots.find_spec", lambda name: None if name == "matplotlib" else found(name)
    )
    path = written(_chat(), tmp_path)
    code, printed, error = _run(capsys, command, path, "--plot", tmp_path / "plan.png")
    assert (code, printed, error.count("\n")) == (2, "", 1)
    assert "plots need the package 'matplotlib'; install it with: pip install" in error
    assert {each.name for each in Path(tmp_path).iterdir()} == {"fleet.yaml"}


def test_one_more_of_an_offer_costs_no_less_than_the_plan(repository, capsys):
    """Without a cap it could be had already: one more than is cheapest is dearer. A cap's saves."""
    file = repository / "configs" / "fleet" / "capped-example.yaml"
    assert motley.main(["plan", "explain", str(file)]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    cells = {(row[1].strip(), row[2].strip()): row[3].strip() for row in rows if len(row) > 4}
    assert cells["capped-example/L4", "+1"] == "+$0.70"
    assert cells["capped-example/owned-A10G", "+1"] == "infeasible"
    assert cells["max_replicas of owned-A10G", "+1"].startswith("-$")
