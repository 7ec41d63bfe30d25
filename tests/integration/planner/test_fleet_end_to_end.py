"""From a trace of the shape of the Azure conversation trace to a verified plan, and after losses."""

import json
import re
from dataclasses import replace

import pytest
from fleet_files import LLAMA, SLO, chat_trace, inputs_of, logged, modelled, written
from plan_commands import planned, simulated

from planner.errors import SolverError
from planner.fleet.fleet_config import Verification
from planner.fleet.fleet_replays import replays
from planner.fleet.judging import Judge
from planner.fleet.plan import FleetPlanner, Search
from planner.fleet.plan_file import read_plan
from planner.fleet.simulate_plan import simulate_plan
from planner.fleet_program.balance import balanced_shares
from planner.fleet_program.limits import Scenario
from planner.workloads.trace import Trace

RATE = 14.0


def _offers(**h100):
    return [
        {"gpu": "A10G", "price_usd_per_hour": 0.2},
        {"gpu": "L40S", "region": "aws-us-east-1"},
        {"gpu": "H100-SXM", "region": "aws-us-east-1"} | h100,
    ]


def _plan(content, folder):
    return planned(written(content, folder), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with three minutes of chat in trace.jsonl."""
    folder = tmp_path_factory.mktemp("verified")
    logged(chat_trace(requests_per_second=RATE, duration_seconds=180), folder)
    return folder


def _traced(**changes):
    content = modelled(**changes)
    content["models"][0]["workload"] = {"trace": "trace.jsonl"}
    return content


@pytest.fixture(scope="module")
def verified(folder):
    """Return the verified plan of that trace, with its file in the folder."""
    return _plan(_traced(offers=_offers()), folder)


def test_a_verified_plan_meets_its_percentiles_whensimulated(verified, folder, capsys):
    """The file's plan, replayed by `motley plan simulate`, gives the latencies the plan promises."""
    assert (verified.latency_verified, verified.solver_fallbacks) == (True, 0)
    assert {row.gpu for row in verified.replicas} == {"A10G", "L40S"}
    assert verified.verification.num_samples >= 10
    code, report = simulated(folder, "--trace", str(folder / "trace.jsonl"))
    assert (code, report["status"]) == (0, "met")
    promised = [target.model_dump() for target in verified.verification.targets]
    assert report["targets"] == promised
    assert "latency verified: every target met" in capsys.readouterr().out


def test_requests_drawn_from_the_plans_own_grid_are_met_too(verified, folder, capsys):
    """Without a trace Poisson requests of the planned rates are drawn anew; the verdict says so."""
    code, report = simulated(folder)
    assert (code, report["num_samples"]) == (0, 10)
    for target in report["targets"]:
        assert target["value_seconds"] < 1.3 * target["limit_seconds"]
    (verdict,) = re.findall("^latency .*", capsys.readouterr().out, re.M)
    words = r"latency (verified|target missed) on requests drawn from the plan's grid of sizes "
    assert re.match(words, verdict)
    assert report["models_drawn_from_grid"] == [verified.models[0].name]


def test_no_replica_of_a_verified_plan_is_spare(verified, folder, capsys):
    """Without one replica of any offer in use a target is missed, or requests are left with nobody."""
    for row in verified.replicas:
        code, report = simulated(
            folder, "--trace", str(folder / "trace.jsonl"), "--without-replica", row.offer
        )
        assert code == 3 or report["status"] == "best attained", row.offer


def test_no_swap_for_the_next_cheaper_offer_holds(verified, folder):
    """One replica of any offer in use as the next cheaper one, its load shared anew, is late."""
    inputs = inputs_of(_traced(offers=_offers()), folder)
    planner = FleetPlanner(inputs, Search())
    judge = Judge({LLAMA: inputs.models[0].config.slo}, replays(inputs, Verification()), _quiet)
    names = [kind.name for kind in inputs.kinds]
    planned_counts = {row.offer: row.replicas for row in verified.replicas}
    counts = [planned_counts.get(name, 0) for name in names]
    prices = [kind.price_usd_per_hour for kind in inputs.kinds]
    full = planner.problem({(LLAMA, name): 1.0 for name in names})
    found = planner.solved({}).answer
    for c, count in enumerate(counts):
        cheaper = [other for other, price in enumerate(prices) if price < prices[c]]
        if not count or not cheaper:
            continue
        swapped = list(counts)
        swapped[c] -= 1
        swapped[max(cheaper, key=prices.__getitem__)] += 1
        try:
            shares = balanced_shares(full, swapped, Scenario(), Search().solver)
        except SolverError:
            continue  # By the throughputs it cannot carry the load at all.
        answer = replace(found, counts=tuple(swapped), shares=shares)
        outcomes = judge.of_model(planner.draw(full, answer), LLAMA)
        assert any(not outcome.is_met for outcome in outcomes), names[c]


def _quiet(text, fraction):
    """Show no progress."""


def test_a_generous_limit_is_paid_back_as_a_saving(folder, tmp_path, capsys):
    """Planned for a third of what replicas hold, replicas are given up, and the plan says which."""
    content = _traced(offers=_offers()[1:2], utilisation_limit_fraction=0.3)
    content["models"][0]["workload"]["trace"] = str(folder / "trace.jsonl")
    plan = _plan(content, tmp_path)
    printed = capsys.readouterr().out
    before = plan.verification.cost_before_usd_per_hour
    assert plan.verification.savings
    assert plan.cost_usd_per_hour < before == plan.program_cost_usd_per_hour
    for saving in plan.verification.savings:
        assert f"saving taken: {saving}" in printed
    assert "note: planned loads above utilisation_limit_fraction: " in printed
    assert "(limit 30.0%)" in " ".join(plan.notes)
    words = ["--trace", str(folder / "trace.jsonl"), "--without-replica", plan.replicas[0].offer]
    code, report = simulated(tmp_path, *words)
    assert code == 3 or report["status"] == "best attained"


def test_what_tightening_cannot_cure_ends_as_best_attained(folder, tmp_path, capsys):
    """A cap forbids the replicas a tight target takes: the plan is given, and says what it attains."""
    content = _traced(offers=_offers(max_gpus=1)[2:])
    content["models"][0]["workload"]["trace"] = str(folder / "trace.jsonl")
    content["models"][0]["slo"] = SLO | {"tpot_seconds": 0.02, "tpot_statistic": "p99"}
    content["verification"] = {"rounds": 3}
    plan = _plan(content, tmp_path)
    printed = capsys.readouterr().out
    assert not plan.latency_verified
    assert plan.verification.status == "best attained"
    assert plan.latency.startswith("latency target missed: best attained TPOT p99 per request of")
    assert plan.latency in printed


@pytest.fixture(scope="module")
def surviving(tmp_path_factory):
    """Return a folder with a plan that survives the loss of a replica and of a market."""
    folder = tmp_path_factory.mktemp("surviving")
    logged(chat_trace(requests_per_second=RATE, duration_seconds=180), folder)
    offers = [
        {"gpu": "L40S", "price_usd_per_hour": 1.9},
        {"gpu": "L40S", "market": "spot", "price_usd_per_hour": 0.8},
    ]
    _plan(_traced(offers=offers, survive=["one-replica", "one-market"]), folder)
    return folder


def test_a_plan_that_survives_one_replica_holds_without_any(surviving, capsys):
    """With one replica of any offer gone from the start every target is still met."""
    plan = read_plan(surviving / "plan.json")
    assert plan.survives == ("one-replica", "one-market")
    assert plan.verification.savings == ()
    for row in plan.replicas:
        assert row.load_replicas <= (row.replicas - 1) * (1 + 1e-5)
        code, report = simulated(
            surviving, "--trace", str(surviving / "trace.jsonl"), "--without-replica", row.offer
        )
        assert (code, report["status"]) == (0, "met")


def test_a_plan_that_survives_one_market_holds_without_any(surviving, capsys):
    """With a market gone its planned weights send everything elsewhere; every target is still met."""
    plan = read_plan(surviving / "plan.json")
    assert {loss.market for loss in plan.market_losses} == {"on-demand", "spot"}
    for loss in plan.market_losses:
        code, report = simulated(
            surviving, "--trace", str(surviving / "trace.jsonl"), "--without-market", loss.market
        )
        assert (code, report["status"]) == (0, "met")


def test_a_loss_that_leaves_nobody_is_code_3(verified, folder, capsys):
    """A plan of one market without that market ends with one line that says who is left alone."""
    code, report = simulated(folder, "--without-market", "on-demand")
    captured = capsys.readouterr()
    assert (code, report) == (3, None)
    assert captured.err.count("\n") == 1
    assert "without market on-demand nobody serves" in captured.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--without-replica", "B200"], "no offer of the plan is called B200; near: "),
        (["--without-market", "spot"], "no market of the plan is called spot; near: on-demand"),
        (["--trace", "none.jsonl"], "none.jsonl: no such file"),
        (["--requests-per-second", "3"], "--requests-per-second is for a trace"),
        (["--requests-per-second", "1e-14"], "is 1e-14; give a finite number of at least 1e-06"),
        (["--model", LLAMA], "--model is for a trace; give one with --trace"),
        (["--sort-rows"], "--sort-rows is for a trace"),
        (["--broken-rows-fraction", "0.1"], "--broken-rows-fraction is for a trace"),
        (["--trace", "none.jsonl", "--model", "z"], "no model of the plan is called z; near: "),
    ],
)
def test_a_loss_or_trace_that_is_not_there_is_code_2(words, message, verified, folder, capsys):
    """What the plan does not have cannot be taken from it; nothing is replayed instead."""
    code, report = simulated(folder, *words)
    captured = capsys.readouterr()
    assert (code, report, captured.out) == (2, None, "")
    assert message in captured.err


def test_damaged_traces_are_replayed_when_allowed(verified, folder, tmp_path, capsys):
    """The options that the refusals name exist here too, and what they did is said."""
    trace = tmp_path / "damaged.csv"
    rows = [f"2024-05-10 00:{s // 60:02}:{s % 60:02},{100 + s},20\n" for s in range(200)]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    trace.write_text(header + "".join((*rows[1:], rows[0], "x,1,1\n")))
    words = ["--trace", str(trace)]
    assert simulated(folder, *words) == (2, None)
    assert "leave them out with broken_rows_fraction 0.005 (--b" in capsys.readouterr().err
    words += ["--broken-rows-fraction", "0.005"]
    assert simulated(folder, *words) == (2, None)
    assert "allow it with sort_rows (--sort-rows)" in capsys.readouterr().err
    code, report = simulated(folder, *words, "--sort-rows")
    assert (code, report["num_requests"]) == (0, 200)
    assert "1 of 201 rows are broken" in report["replayed"]
    assert report["replayed"].endswith("(line 201); they were sorted")


def test_a_plan_of_another_version_is_code_2(verified, folder, capsys):
    """A reader refuses a plan whose layout it does not know, by name."""
    content = json.loads((folder / "plan.json").read_text())
    (folder / "old.json").write_text(json.dumps({**content, "schema_version": 1}))
    code, report = simulated(folder, plan="old.json")
    assert (code, report) == (2, None)
    assert "is a fleet plan of schema_version 1, this Motley reads 2" in capsys.readouterr().err


def test_models_share_a_cap(tmp_path, capsys):
    """Two models, each verified on its own pools, together keep to the devices there are."""
    one = {"workload": {"mix": "chat", "requests_per_second": 6, "duration_seconds": 150}}
    models = [
        {"name": name, "source": LLAMA, "max_context_tokens": 16384, "slo": SLO} | one
        for name in ("a", "b")
    ]
    models[1]["workload"] = one["workload"] | {"seed": 1}
    offers = [
        {"gpu": "L40S", "price_usd_per_hour": 1.9},
        {"gpu": "H100-SXM", "price_usd_per_hour": 12},
    ]
    caps = [{"gpu": "L40S", "max_gpus": 3}]
    plan = _plan(modelled(models=models, offers=offers, caps=caps), tmp_path)
    assert sum(row.replicas for row in plan.replicas if row.gpu == "L40S") <= 3
    assert {row.gpu for row in plan.replicas} == {"L40S", "H100-SXM"}
    assert {row.model for row in plan.replicas} == {"a", "b"}
    assert {target.model for target in plan.verification.targets} == {"a", "b"}
    assert plan.latency_verified


def test_an_unfinished_search_for_savings_is_noted(folder, tmp_path, capsys):
    """Where time runs out nobody claims that no replica is spare."""
    content = _traced(offers=_offers()[1:2], utilisation_limit_fraction=0.3)
    content["models"][0]["workload"]["trace"] = str(folder / "trace.jsonl")
    content["verification"] = {"savings_seconds": 1e-6}
    plan = _plan(content, tmp_path)
    assert len(plan.verification.savings) <= 1
    assert any("more replicas may be spare; raise savings_seconds" in note for note in plan.notes)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Return a folder with a plan of two models, a and b, not verified."""
    folder = tmp_path_factory.mktemp("shared")
    workload = {"mix": "chat", "requests_per_second": 4, "duration_seconds": 60}
    models = [
        {
            "name": name,
            "source": LLAMA,
            "max_context_tokens": 16384,
            "slo": SLO,
            "workload": workload,
        }
        for name in ("a", "b")
    ]
    _plan(modelled(models=models, offers=_offers()[1:2], verification=False), folder)
    return folder


def _named(trace, *models):
    """Return the trace with its requests asking for these models in turn."""
    names = [models[index % len(models)] for index in range(trace.num_requests)]
    return replace(trace, models=tuple(names))


def test_a_trace_of_several_models_is_judged_model_by_model(shared, capsys):
    """Each model has its own targets; one that nobody asks for is named as such."""
    trace = chat_trace(requests_per_second=8, duration_seconds=60)
    path = logged(_named(trace, "a", "b"), shared, "both.jsonl")
    code, report = simulated(shared, "--trace", str(path))
    assert (code, [target["model"] for target in report["targets"]]) == (0, ["a", "a", "b", "b"])
    path = logged(_named(trace, "a"), shared, "one.jsonl")
    code, report = simulated(shared, "--trace", str(path), "--requests-per-second", "4")
    assert (code, {target["model"] for target in report["targets"]}) == (0, {"a"})
    assert report["replayed"].endswith("; b: no requests")
    assert "latency not verified: b had no requests" in capsys.readouterr().out


def test_one_replica_of_an_offer_of_two_models_is_named_with_its_model(shared, capsys):
    """The bare offer is refused with the choices; with its model, that model alone loses one."""
    plan = read_plan(shared / "plan.json")
    (offer,) = {row.offer for row in plan.replicas}
    path = logged(_named(chat_trace(duration_seconds=60), "a", "b"), shared, "lost.jsonl")
    words = ("--trace", str(path), "--without-replica")
    assert simulated(shared, *words, offer) == (2, None)
    assert f"one replica is to go; name one of a/{offer}, b/{offer}" in capsys.readouterr().err
    two = {r.offer: r.model_copy(update={"replicas": 2}) for r in plan.replicas}[offer]
    rows = tuple(two.model_copy(update={"model": name}) for name in ("a", "b"))
    doubled = plan.model_copy(update={"replicas": rows})
    (shared / "doubled.json").write_text(doubled.model_dump_json())
    values = []
    for more in ((), ("--without-replica", f"b/{offer}")):
        code, report = simulated(shared, "--trace", str(path), *more, plan="doubled.json")
        assert code == 0
        values.append([target["value_seconds"] for target in report["targets"]])
    whole, lost = values
    assert whole[:2] == lost[:2]
    assert lost[3] > whole[3]


def test_a_small_replica_bounds_only_the_requests_it_may_get(verified, folder, tmp_path, capsys):
    """Long inputs go where there is room for them, so a smaller context elsewhere refuses none."""
    content = json.loads(verified.model_dump_json())
    small, large = (next(r for r in content["replicas"] if r["gpu"] == g) for g in ("A10G", "L40S"))
    small["max_context_tokens"] = 1000
    end = content["weights"][-1]["input_tokens_up_to"]
    content["weights"] = [
        content["weights"][0]
        | {"input_tokens_over": over, "input_tokens_up_to": up_to}
        | {"shares_fraction": {offer: 1.0}, "weights": {offer: 1000}}
        for over, up_to, offer in ((0, 500, small["offer"]), (500, end, large["offer"]))
    ]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    for short_output, fits in ((600, True), (601, False)):
        trace = Trace(tuple(map(float, range(200))), (400, 4000) * 100, (short_output, 100) * 100)
        code, report = simulated(tmp_path, "--trace", str(logged(trace, tmp_path)))
        assert (code, report is not None) == ((0, True) if fits else (2, False))
    assert "100 requests of the trace for" in (error := capsys.readouterr().err)
    assert "the longest 1,001 tokens of 1,000" in error


def test_requests_the_plan_cannot_serve_are_counted_and_refused(shared, capsys):
    """A model that it does not know, none at all, and requests beyond its context end with code 2."""
    trace = chat_trace(requests_per_second=4, duration_seconds=60)
    longer = replace(trace, input_tokens=(20_000, *trace.input_tokens[1:]))
    for unfit, message in (
        (_named(trace, "a", "z"), "requests of the trace are for z, which the plan does not serve"),
        (trace, "requests of the trace name no model; say which model they are for"),
        (
            _named(longer, "a"),
            "1 requests of the trace for a are longer than the context of replicas they may go to",
        ),
    ):
        path = logged(unfit, shared, "unfit.jsonl")
        code, report = simulated(shared, "--trace", str(path))
        assert (code, report) == (2, None)
        assert message in capsys.readouterr().err
    path = str(logged(_named(trace, "a", "b"), shared, "named.jsonl"))
    assert simulated(shared, "--trace", path, "--model", "b") == (2, None)
    assert "every request of the trace names its model, so --model b" in capsys.readouterr().err
    code, report = simulated(
        shared, "--trace", str(logged(trace, shared, "unnamed.jsonl")), "--model", "b"
    )
    assert (code, {target["model"] for target in report["targets"]}) == (0, {"b"})


def test_a_fleet_that_falls_behind_is_never_verified(tmp_path):
    """A limit on the time per token alone does not see a queue: the backlog does."""
    content = modelled(offers=[{"gpu": "A10G", "region": "aws-us-east-1", "max_sequences": 16}])
    content["models"][0] |= {
        "workload": {"mix": "chat", "requests_per_second": 4, "duration_seconds": 600},
        "slo": {"tpot_seconds": 0.2},
    }
    plan = _plan(content, tmp_path)
    (row,) = plan.replicas
    assert plan.latency_verified
    assert row.replicas > 1
    assert row.utilisation_fraction <= 1
    one = plan.model_copy(update={"replicas": (row.model_copy(update={"replicas": 1}),)})
    report = simulate_plan(one, on_progress=lambda text, fraction: None)
    assert "backlog at the end" in report.in_words
