"""Offers whose speed was measured: rates under the target, replays by the fitted steps."""

import pytest
from fleet_files import chat_trace, logged, stated, written
from plan_commands import planned, refused

import motley
from planner.profiling.fitted_steps import FittedStepTimes
from planner.profiling.profile import (
    Cell,
    DecodeBatch,
    LatencySummary,
    LonePrompt,
    MixedPrompt,
    ObservedLimits,
    Run,
    read_profile,
    write_profile,
)
from planner.profiling.profile_assembly import ReplicaFacts, assembled
from planner.profiling.profile_reading import headroom
from planner.render.engines import vllm_arguments
from planner.speed.step_times import StepBatch
from planner.workloads.slo import Slo

STEPS = FittedStepTimes((1, 8, 64), (0.02, 0.022, 0.04), 2e-8, 1e-5, 0.0, mixed_seconds=0.003)
MANY = ObservedLimits(max_sequences=4096, kv_capacity_tokens=200_000, max_context_tokens=20_000)
SLO = {"ttft_seconds": 2.0, "tpot_seconds": 0.1}


def _run(rate, tpot_seconds):
    times = dict.fromkeys(LatencySummary.model_fields, tpot_seconds)
    return Run(
        offered_requests_per_second=rate,
        achieved_requests_per_second=rate,
        num_requests=100,
        duration_seconds=10,
        mean_input_tokens=1000,
        mean_output_tokens=200,
        source="a test",
        ttft=LatencySummary(**times),
        tpot=LatencySummary(**times),
    )


def _profile(
    folder,
    *,
    gpu="L40S",
    dtype=None,
    steps=True,
    limits=None,
    overhead_seconds=0.0,
    name="profile.json",
):
    """Write a profile: 2 requests/s at 0.05 s a token, 3 at 0.09 s, whatever the size."""
    cell = Cell(runs=(_run(2, 0.05), _run(3, 0.09)))
    sizes = [(inputs, outputs) for inputs in (16, 16_000) for outputs in (8, 1_200)]
    measured = {
        "lone_prompts": tuple(
            LonePrompt(
                input_tokens=tokens,
                ttft_seconds=overhead_seconds + STEPS.step_seconds(StepBatch(tokens, 0, 0, 0)),
                num_requests=3,
            )
            for tokens in (16, 200, 1000)
        ),
        "decode_batches": tuple(
            DecodeBatch(
                sequences=count,
                input_tokens=tokens,
                context_tokens=tokens,
                step_seconds=STEPS.step_seconds(StepBatch(0, 0, count, count * tokens)),
                num_repetitions=3,
            )
            for count in STEPS.knots
            for tokens in (50, 500)
        ),
        "mixed_prompts": tuple(
            MixedPrompt(
                sequences=8,
                context_tokens=50,
                prompt_tokens=tokens,
                decode_steps=1,
                seconds=STEPS.step_seconds(StepBatch(tokens, 0, 8, 400)),
                num_repetitions=3,
            )
            for tokens in (16, 1000)
        ),
        "limits": limits
        or ObservedLimits(max_sequences=64, kv_capacity_tokens=200_000, max_context_tokens=20_000),
    }
    profile = assembled(
        ReplicaFacts(gpu=gpu, model="m", date="2026-01-01", dtype=dtype),
        dict.fromkeys(sizes, cell),
        **(measured if steps else {}),
    )
    write_profile(profile, folder / name)


def _file(slo=SLO, **changes):
    """Return a file of five requests a second of chat on profiled L40S."""
    model = {
        "name": "m",
        "slo": slo,
        "workload": {"mix": "chat", "requests_per_second": 5, "duration_seconds": 150},
    }
    offer = {"gpu": "L40S", "price_usd_per_hour": 2, "profile": "profile.json"}
    fields = {"models": [model], "offers": [offer], "verification": True}
    return stated(**(fields | changes))


def test_rates_are_those_of_the_runs_within_the_target(tmp_path, capsys):
    """A tighter target takes the slower run's rate; the load follows from it."""
    _profile(tmp_path)
    for limit, rate in ((0.1, 3.0), (0.06, 2.0)):
        content = _file(slo=SLO | {"tpot_seconds": limit}, verification=False)
        plan = planned(written(content, tmp_path), tmp_path)
        (row,) = plan.replicas
        assert row.load_replicas == pytest.approx(5 / rate)
        assert row.speed == "profile"
        assert row.coefficients is None


@pytest.mark.parametrize(("tpot_seconds", "times"), [(0.06, 1.5), (0.1, 1.0)])
def test_what_lies_between_the_target_and_saturation_is_known(tmp_path, tpot_seconds, times):
    """A tight target leaves the rates above it that were sustained all the same."""
    _profile(tmp_path)
    profile = read_profile(tmp_path / "profile.json")
    slo = Slo(tpot_seconds=tpot_seconds)
    assert headroom(profile, [(16, 8), (900, 100)], slo) == pytest.approx(times)


def test_a_measured_plan_is_verified_and_simulated_by_its_fitted_steps(tmp_path, capsys):
    """The plan file carries the steps; `simulate` finds in it what verification found."""
    _profile(tmp_path)
    path = logged(chat_trace(requests_per_second=5, duration_seconds=150), tmp_path)
    content = _file()
    content["models"][0]["workload"] = {"trace": path.name}
    plan = planned(written(content, tmp_path), tmp_path)
    assert plan.latency_verified
    fitted = plan.replicas[0].fitted
    assert fitted.knots == STEPS.knots
    assert fitted.base_seconds == pytest.approx(STEPS.base_seconds, rel=1e-3)
    assert fitted.mixed_seconds == pytest.approx(STEPS.mixed_seconds, rel=1e-2)
    report = tmp_path / "report.json"
    words = ["simulate", str(tmp_path / "plan.json"), "--trace", str(path)]
    assert motley.main(["plan", *words, "--output", str(report)]) == 0
    for target in plan.verification.targets:
        assert f'"value_seconds": {target.value_seconds}' in report.read_text()


def test_what_a_request_costs_beside_steps_is_judged(tmp_path, capsys):
    """Two profiles that differ by 50 ms a request give plans whose TTFT differs by as much."""
    targets = []
    for overhead in (0.0, 0.05):
        _profile(tmp_path, overhead_seconds=overhead)
        plan = planned(written(_file(), tmp_path), tmp_path)
        targets.append([target.value_seconds for target in plan.verification.targets])
    (ttft, tpot), (later_ttft, later_tpot) = targets
    assert later_ttft - ttft == pytest.approx(0.05, rel=1e-3)
    assert later_tpot == pytest.approx(tpot, rel=1e-3)


def test_formats_that_the_file_gives_are_planned_and_compared(tmp_path, capsys):
    """Measured replicas keep the file's fp8; a profile of other weights is noted, others guess nothing."""
    _profile(tmp_path, dtype="bfloat16")
    content = _file(verification=False)
    plan = planned(written(content, tmp_path), tmp_path)
    assert (plan.replicas[0].weight_dtype, plan.replicas[0].kv_dtype) == (None, None)
    content["models"][0] |= {"source": "org/m", "weight_dtype": "fp8"}
    plan = planned(written(content, tmp_path), tmp_path)
    assert (plan.replicas[0].weight_dtype, plan.replicas[0].kv_dtype) == ("fp8", "bfloat16")
    words = vllm_arguments(plan.models[0], plan.replicas[0])
    assert words[words.index("--quantization") + 1] == "fp8"
    note = "the profile of L40S/on-demand is of bfloat16 weights, planned as fp8"
    assert note in plan.notes
    _profile(tmp_path, dtype="fp8")
    assert note not in planned(written(content, tmp_path), tmp_path).notes


def test_requests_beyond_the_measured_context_have_no_rate(tmp_path, capsys):
    """What the endpoint cannot hold is infeasible with its reason, not a failure of the replay."""
    limits = ObservedLimits(max_sequences=64, kv_capacity_tokens=200_000, max_context_tokens=5_000)
    _profile(tmp_path, limits=limits)
    code, error = refused(_file(), tmp_path, capsys)
    assert code == 3
    assert "L40S/on-demand: its longest request has" in error
    assert "the context 5000" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": False}, "L40S/on-demand cannot be replayed: "),
        ({"limits": ObservedLimits(max_sequences=64)}, "did not observe kv_capacity_tokens"),
        ({"limits": MANY}, "ran 4096 sequences at once, over the 2048 of max_batched_tokens"),
    ],
)
def test_a_profile_that_cannot_be_replayed_says_why(options, words, tmp_path, capsys):
    """Its rates plan a fleet all the same; the latency is not verified, with the reason."""
    _profile(tmp_path, **options)
    plan = planned(written(_file(), tmp_path), tmp_path)
    assert not plan.latency_verified
    assert plan.latency.startswith("latency not verified: ")
    assert words in plan.latency
    capsys.readouterr()
    assert motley.main(["plan", "simulate", str(tmp_path / "plan.json")]) == 2
    assert "holds no step times, so it cannot be replayed" in capsys.readouterr().err


def test_a_profile_of_one_model_serves_that_one_only(tmp_path, capsys):
    """With profiles by model another offer serves the rest, and the replay is not disturbed."""
    _profile(tmp_path)
    content = _file()
    content["models"].append(content["models"][0] | {"name": "n"})
    content["offers"][0]["profile"] = {"m": "profile.json"}
    content["offers"].append(
        {"gpu": "H100-SXM", "price_usd_per_hour": 9, "profile": {"n": "fast.json"}}
    )
    _profile(tmp_path, gpu="H100-SXM", name="fast.json")
    plan = planned(written(content, tmp_path), tmp_path)
    assert {(row.model, row.gpu) for row in plan.replicas} == {("m", "L40S"), ("n", "H100-SXM")}
    assert plan.verification is not None


REFUSED = {
    "another device": (
        lambda c: c["offers"][0].update(gpu="L4"),
        "is of 1 x L40S, the offer L4/on-demand of 1 x L4; name the right profile",
    ),
    "another degree": (
        lambda c: c["offers"][0].update(tensor_parallel=[2]),
        "is of 1 x L40S, the offer L40S/on-demand of 2 x L40S",
    ),
    "no target": (lambda c: c["models"][0].pop("slo"), "m has no slo, under which"),
    "no file": (lambda c: c["offers"][0].update(profile="none.json"), "none.json: no such file"),
    "another document": (lambda c: c["offers"][0].update(profile="fleet.yaml"), "fleet.yaml"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_profile_that_does_not_fit_the_offer_is_code_2(case, tmp_path, capsys):
    """Device, degree and target must match; the message names both sides."""
    change, message = REFUSED[case]
    _profile(tmp_path)
    content = _file()
    change(content)
    code, error = refused(content, tmp_path, capsys)
    assert code == 2
    assert message in error
