"""`motley plan fleet` as a user meets it: tables, plan file, exit codes, one-line errors."""

import re
from pathlib import Path

import pytest
import yaml
from fleet_files import LLAMA, SLO, modelled, served, stated, written

import motley
from planner.plan_file import read_plan

CONFIGS = Path(__file__).parents[3] / "configs" / "fleet"
EXAMPLE = CONFIGS / "melange-example.yaml"


def _planned(path, tmp_path):
    target = tmp_path / "plan.json"
    assert motley.main(["plan", "fleet", str(path), "--output", str(target)]) == 0
    return read_plan(target)


def test_the_example_is_planned_at_468(tmp_path, capsys):
    """The published example gives 1 A10G and 1 A100 in the table and in the plan file."""
    plan = _planned(EXAMPLE, tmp_path)
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
    plan = _planned(written(content, tmp_path), tmp_path)
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
    plan = _planned(written(stated(), tmp_path), tmp_path)
    printed = capsys.readouterr().out
    assert plan.oracle_cost_usd_per_hour == pytest.approx(4.68)
    extra = plan.program_cost_usd_per_hour - 4.68
    assert f"price of not knowing output lengths: ${extra:,.2f}/h" in printed


def test_ranges_without_requests_belong_to_the_next(tmp_path, capsys):
    """The table holds no gap: what nobody asked for goes where the next longer inputs go."""
    content = stated(models=[served(rates=((0, 0), (15, 6)))])
    _planned(written(content, tmp_path), tmp_path)
    assert "1-500" in capsys.readouterr().out


def _offer(**fields):
    return lambda c: c["offers"][0].update(fields)


def _workload(**fields):
    return lambda c: c["models"][0].update(workload=fields)


BAD_INPUT = {
    "unknown key": (lambda c: c.update(utilization=0.5), "utilization: unknown key"),
    "unknown key in an offer": (_offer(prize=1), "offers.0.prize: unknown key"),
    "negative price": (_offer(price_usd_per_hour=-1), "offers.0.price_usd_per_hour: Input should"),
    "NaN price": (_offer(price_usd_per_hour=float("nan")), "price_usd_per_hour: Input should be a"),
    "trace of a price": (_offer(price_usd_per_hour=1e-300), "under 1e-6; write 0 or correct the"),
    "truth for a price": (_offer(price_usd_per_hour=True), "not true or false; write a number"),
    "missing price": (
        lambda c: c["offers"][0].pop("price_usd_per_hour"),
        "A10G has no price_usd_per_hour; add it (0 where owned)",
    ),
    "ragged throughput": (
        lambda c: c["offers"][1].update(throughput_requests_per_second=[[1, 2], [3]]),
        "throughput_requests_per_second of A100 has 1 numbers in row 2",
    ),
    "trace of a throughput": (
        _offer(throughput_requests_per_second=[[1, 1], [1, 1e-9]]),
        "under 1e-6; write 0 or correct the unit (got 1e-09)",
    ),
    "NaN rate": (
        lambda c: c["models"][0]["workload"].update(
            rates_requests_per_second=[[1, float("nan")], [1, 1]]
        ),
        "rates_requests_per_second.0.1: Input should be a finite number",
    ),
    "histogram not summing to 1": (
        _workload(
            input_tokens_up_to=[1, 2],
            output_tokens_up_to=[1, 2],
            histogram_fraction=[[0.2, 0.1], [0.5, 0.1]],
            requests_per_second=3,
        ),
        "histogram_fraction sums to 0.9, not to 1",
    ),
    "no requests": (
        _workload(input_tokens_up_to=[1], output_tokens_up_to=[1]),
        "holds no requests",
    ),
    "no offers": (lambda c: c.update(offers=[]), "offers: Tuple should have at least 1 item"),
    "an offer twice": (lambda c: c["offers"][1].update(name="A10G"), "A10G is there twice"),
    "utilisation above 1": (
        lambda c: c.update(utilisation_limit_fraction=1.2),
        "utilisation_limit_fraction: Input should be less than or equal to 1 (got 1.2)",
    ),
    "another schema version": (
        lambda c: c.update(schema_version=1),
        "schema_version: Input should",
    ),
    "a cap on nothing": (
        lambda c: c.update(caps=[{"gpu": "L4", "max_gpus": 1}]),
        "caps: no offer is of L4",
    ),
    "an unknown device": (_offer(gpu="A10000"), "no device is called A10000; near: A100-80GB"),
    "an unknown mix": (
        lambda c: c.update(
            modelled(
                models=[
                    {
                        "name": LLAMA,
                        "slo": SLO,
                        "workload": {"mix": "chatter", "requests_per_second": 1},
                    }
                ]
            )
        ),
        "there is no mix 'chatter'; use one of: chat, code",
    ),
    "a missing current plan": (
        lambda c: c.update(current_plan="none.json", max_change_replicas=1),
        "none.json: no such file",
    ),
}


def _failure(capsys, arguments):
    code = motley.main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("motley: error: ")
    return code, captured.err


def _refused(content, tmp_path, capsys):
    """Plan a file that has no plan; return exit code and message; check that nothing is left."""
    path = written(content, tmp_path)
    before = set(tmp_path.iterdir())
    target = tmp_path / "plan.json"
    found = _failure(capsys, ["plan", "fleet", str(path), "--output", str(target)])
    assert set(tmp_path.iterdir()) == before
    return found


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_code_2(case, tmp_path, capsys):
    """The line names what is wrong, the value and what to do; no file is written."""
    change, message = BAD_INPUT[case]
    content = stated()
    change(content)
    code, error = _refused(content, tmp_path, capsys)
    assert code == 2
    assert message in error


HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROWS = "".join(f"2023-11-16 18:{s // 60:02}:{s % 60:02}.0000000,{100 + s},20\n" for s in range(90))

BAD_TRACES = {
    "empty": ("", "trace.csv: is empty; a trace holds at least one request"),
    "without rows": (HEADER, "trace.csv"),
    "of no known form": ("a,b\n1,2\n", "trace.csv"),
    "with broken rows": (HEADER + ROWS + "2023-11-16 18:59:00.0000000,many,20\n", "trace.csv"),
    "out of order": (HEADER + ROWS + "2023-11-16 17:59:00.0000000,9,20\n", "trace.csv"),
    "of one instant": (HEADER + "2023-11-16 18:00:00.0000000,9,20\n" * 3, "no rate"),
}


@pytest.mark.parametrize("case", BAD_TRACES)
def test_a_bad_trace_is_one_line_and_code_2(case, tmp_path, capsys):
    """Empty, broken, unsorted: what is wrong is counted and named, and nothing is planned."""
    text, message = BAD_TRACES[case]
    (tmp_path / "trace.csv").write_text(text)
    content = modelled()
    content["models"][0]["workload"] = {"trace": "trace.csv"}
    code, error = _refused(content, tmp_path, capsys)
    assert code == 2
    assert message in error


def test_broken_rows_are_counted_and_left_out_where_allowed(tmp_path, capsys):
    """The plan then notes how many."""
    text = HEADER + ROWS + "2023-11-16 18:59:00.0000000,many,20\n"
    (tmp_path / "trace.csv").write_text(text)
    content = modelled(verification=False)
    content["models"][0]["workload"] = {"trace": "trace.csv", "broken_rows_fraction": 0.1}
    plan = _planned(written(content, tmp_path), tmp_path)
    assert any("1 " in note and "broken" in note for note in plan.notes)


def _slow(content):
    content["models"][0]["slo"] = SLO | {"tpot_seconds": 0.001}


INFEASIBLE = {
    "a size nobody serves": (
        stated(),
        lambda c: [o["throughput_requests_per_second"][1].__setitem__(1, 0) for o in c["offers"]],
        ["no offer can serve input 101-500 tokens of m", "A10G: throughput 0, A100: throughput 0"],
    ),
    "caps": (
        stated(),
        lambda c: (
            [offer.update(max_replicas=1) for offer in c["offers"]]
            and c["models"].__setitem__(0, served(rates=((12, 6), (30, 12))))
        ),
        ["the caps bind: the smallest change is to raise max_replicas of A10"],
    ),
    "a cap on a device": (
        modelled(caps=[{"gpu": "L40S", "max_gpus": 1}]),
        lambda c: c.update(offers=c["offers"][1:2]),
        ["the caps bind", "max_gpus of L40S from 1 to 2"],
    ),
    "a budget": (
        stated(budget_usd_per_hour=2),
        lambda c: None,
        ["the budget of 2 USD/h binds: raise it to"],
    ),
    "a second market": (
        stated(survive=["one-market"]),
        lambda c: None,
        ["surviving the loss of one market cannot be met", "in market 'on-demand' only"],
    ),
    "a target nothing meets": (
        modelled(),
        _slow,
        ["no offer can serve input", "TPOT", "H100-SXM/on-demand/aws-us-east-1"],
    ),
    "a model too large": (
        modelled(),
        lambda c: (
            c.update(offers=[{"gpu": "L4", "price_usd_per_hour": 1}]),
            c["models"][0].update(source="meta-llama/Llama-3.1-70B-Instruct"),
        ),
        ["weights 141 GB do not fit 1 x L4 of 24 GB"],
    ),
    "a context too short": (
        modelled(),
        lambda c: c["models"][0].update(max_context_tokens=2000),
        ["its longest request has", "the context 2000"],
    ),
}


@pytest.mark.parametrize("case", INFEASIBLE)
def test_infeasible_is_one_line_and_code_3(case, tmp_path, capsys):
    """The line names the size, the caps or the rule that binds, and what would help."""
    content, change, messages = INFEASIBLE[case]
    change(content)
    code, error = _refused(content, tmp_path, capsys)
    assert code == 3
    for message in messages:
        assert message in error


def test_a_target_nothing_meets_names_the_best_attainable(tmp_path, capsys):
    """The line gives the time per token of a request alone on each offer, beside the limit."""
    content = modelled()
    _slow(content)
    _, error = _refused(content, tmp_path, capsys)
    words = r"(\S+): a request alone has a TPOT of ([\d.]+) s, the limit is 0.001 s"
    best = {offer: float(seconds) for offer, seconds in re.findall(words, error)}
    assert len(best) == 4
    assert min(best, key=best.get) == "H100-SXM/on-demand/aws-us-east-1"
    assert min(best.values()) > 0.001


def test_no_plan_in_time_is_code_4(tmp_path, capsys, monkeypatch):
    """A search that ends without a plan or a proof says what to do."""
    from planner import plan
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
    code, error = _refused(stated(), tmp_path, capsys)
    assert code == 4
    assert "no plan was found within 2 s; raise the time limit" in error


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
    assert _failure(capsys, ["plan", *words])[0] == 2


def test_no_words_print_the_help(capsys):
    """`motley plan` alone lists its subcommands."""
    assert motley.main(["plan"]) == 0
    printed = capsys.readouterr().out
    for name in ("fleet", "simulate", "explain", "pareto", "workload"):
        assert name in printed


def test_a_bounded_change_keeps_what_runs(tmp_path, capsys):
    """Against a current plan no offer changes by more than is allowed."""
    first = _planned(written(stated(), tmp_path), tmp_path)
    running = {row.offer: row.replicas for row in first.replicas}
    (tmp_path / "plan.json").rename(tmp_path / "current.json")
    content = stated(
        models=[served(rates=((12, 6), (30, 12)))],
        current_plan="current.json",
        max_change_replicas=1,
    )
    plan = _planned(written(content, tmp_path), tmp_path)
    for offer in ("A10G", "A100"):
        now = {row.offer: row.replicas for row in plan.replicas}.get(offer, 0)
        assert abs(now - running.get(offer, 0)) <= 1
    content["offers"] = content["offers"][1:]
    content["offers"][0]["name"] = "renamed"
    (tmp_path / "plan.json").unlink()
    capsys.readouterr()
    code, error = _refused(content, tmp_path, capsys)
    assert code == 2
    assert "which the file to plan does not offer" in error


def test_a_model_without_a_target_needs_one(tmp_path, capsys):
    """A modelled speed without an slo ends with code 2."""
    code, error = _refused(modelled(models=[served(LLAMA)]), tmp_path, capsys)
    assert (code, "has no slo" in error) == (2, True)
