"""Files that `motley plan fleet` refuses or finds no plan for: one line, its exit code, no file."""

import re

import pytest
from fleet_files import LLAMA, SLO, modelled, served, stated, written
from plan_commands import planned, refused


def _offer(**fields):
    return lambda c: c["offers"][0].update(fields)


def _workload(**fields):
    return lambda c: c["models"][0].update(workload=fields)


def _modelled_workload(**fields):
    model = {"name": LLAMA, "slo": SLO, "workload": fields}
    return lambda c: c.update(modelled(models=[model]))


BAD_INPUT = {
    "unknown key": (
        lambda c: c.update(utilization=0.5),
        "utilization: unknown key; near: ",
    ),
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
    "no offers": (lambda c: c.update(offers=[]), "offers: holds 0; give at least 1"),
    "an offer twice": (lambda c: c["offers"][1].update(name="A10G"), "A10G is there twice"),
    "utilisation above 1": (
        lambda c: c.update(utilisation_limit_fraction=1.2),
        "utilisation_limit_fraction: Input should be less than or equal to 1 (got 1.2)",
    ),
    "another schema version": (
        lambda c: c.update(schema_version=1),
        "schema_version: is 1, read is 2",
    ),
    "a cap on nothing": (
        lambda c: c.update(caps=[{"gpu": "L4", "max_gpus": 1}]),
        "caps: no offer is of L4",
    ),
    "an unknown device": (_offer(gpu="A10000"), "no device is called A10000; near: A100-80GB"),
    "an unknown mix": (
        _modelled_workload(mix="chatter", requests_per_second=1),
        "there is no mix 'chatter'; use one of: chat, code",
    ),
    "a rate of nearly 0": (
        _modelled_workload(mix="chat", requests_per_second=1e-14),
        "requests_per_second: is above 0 but under 1e-6",
    ),
    "a trace that is a folder": (
        _modelled_workload(trace="."),
        f"is a folder (workload of {LLAMA}); name a trace file",
    ),
    "a trace that is not there": (
        _modelled_workload(trace="none.csv"),
        f"none.csv: no such file (workload of {LLAMA})",
    ),
    "a context above the model's": (
        lambda c: c.update(modelled(models=[served(LLAMA, slo=SLO, max_context_tokens=10**7)])),
        "max_context_tokens 10,000,000 is above the 131,072 of meta-llama/Llama-3.1-8B",
    ),
    "a missing current plan": (
        lambda c: c.update(current_plan="none.json", max_change_replicas=1),
        "none.json: no such file",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_code_2(case, tmp_path, capsys):
    """The line names what is wrong, the value and what to do; no file is written."""
    change, message = BAD_INPUT[case]
    content = stated()
    change(content)
    code, error = refused(content, tmp_path, capsys)
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
    code, error = refused(content, tmp_path, capsys)
    assert code == 2
    assert message in error


def test_broken_rows_are_counted_and_left_out_where_allowed(tmp_path, capsys):
    """The plan then notes how many."""
    text = HEADER + ROWS + "2023-11-16 18:59:00.0000000,many,20\n"
    (tmp_path / "trace.csv").write_text(text)
    content = modelled(verification=False)
    content["models"][0]["workload"] = {"trace": "trace.csv", "broken_rows_fraction": 0.1}
    plan = planned(written(content, tmp_path), tmp_path)
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
    code, error = refused(content, tmp_path, capsys)
    assert code == 3
    for message in messages:
        assert message in error


def test_a_target_nothing_meets_names_the_best_attainable(tmp_path, capsys):
    """One line with the nearest offer's time per token of a request alone, beside the limit."""
    content = modelled()
    _slow(content)
    _, error = refused(content, tmp_path, capsys)
    words = r"on (\S+), which comes nearest, a request alone has a TPOT of ([\d.]+) s, the limit is 0.001 s"
    ((offer, seconds),) = re.findall(words, error)
    assert offer == "H100-SXM/on-demand/aws-us-east-1"
    assert float(seconds) > 0.001
    assert "nor can the other 3; loosen the limit" in error
    assert len(error.replace(str(tmp_path), "")) < 350


def test_a_model_without_a_target_needs_one(tmp_path, capsys):
    """A modelled speed without an slo ends with code 2."""
    code, error = refused(modelled(models=[served(LLAMA)]), tmp_path, capsys)
    assert (code, "has no slo" in error) == (2, True)


@pytest.mark.parametrize("price", [1.2345614, 1.2345674, 3.0])
def test_the_budget_that_is_named_is_enough(price, tmp_path, capsys):
    """The number in the message, written into the file, gives a plan; a cent less does not."""
    content = stated(budget_usd_per_hour=0.5)
    content["offers"] = [content["offers"][1] | {"price_usd_per_hour": price}]
    code, error = refused(content, tmp_path, capsys)
    enough = float(re.search(r"raise it to ([\d.]+) USD/h", error)[1])
    assert code == 3
    content["budget_usd_per_hour"] = round(enough - 0.01, 2)
    assert refused(content, tmp_path, capsys)[0] == 3
    content["budget_usd_per_hour"] = enough
    assert planned(written(content, tmp_path), tmp_path).cost_usd_per_hour <= enough


def test_the_caps_that_are_named_are_enough(tmp_path, capsys):
    """Raised as the message says, the caps give a plan."""
    content = stated(models=[served(rates=((12, 6), (30, 12)))])
    for offer in content["offers"]:
        offer["max_replicas"] = 1
    code, error = refused(content, tmp_path, capsys)
    assert code == 3
    raised = re.findall(r"max_replicas of (\S+) from 1 to (\d+) replicas", error)
    assert raised
    for offer in content["offers"]:
        offer["max_replicas"] = int(dict(raised).get(offer["name"], 1))
    assert planned(written(content, tmp_path), tmp_path).status == "optimal"
