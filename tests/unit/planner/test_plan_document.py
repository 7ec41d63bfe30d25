"""The plan's document: rows, weights, and what a reader refuses."""

import json

import pytest
from fleet_files import LLAMA, SLO, inputs_of, modelled, served, stated
from pydantic import ValidationError

from planner.documents import describe
from planner.errors import DocumentError
from planner.fleet.fleet_config import FleetConfig
from planner.fleet.fleet_plan import WEIGHT_SUM, FleetPlan
from planner.fleet.plan import FleetPlanner, Search, plan_fleet
from planner.fleet.plan_document import column_loads
from planner.fleet.plan_file import read_plan
from planner.fleet.planned_fleet import planned_speed
from planner.render.engines import vllm_arguments
from planner.render.options import RenderOptions
from planner.render.targets import render


def _plan(content):
    outcome = plan_fleet(FleetConfig.model_validate(content))
    assert outcome.plan is not None, outcome.reason
    return outcome.plan


def _two_models():
    content = stated(
        models=[served("m"), served("n", rates=((0, 0), (2, 0)))],
        survive=["one-market"],
        utilisation_limit_fraction=0.9,
    )
    content["offers"][1]["market"] = "spot"
    for offer, matrix in zip(
        content["offers"], ([[2, 1], [5, 2]], [[20, 20], [40, 20]]), strict=True
    ):
        offer["throughput_requests_per_second"] = {"m": matrix, "n": matrix}
    return content


@pytest.fixture(scope="module")
def plan():
    """Return the plan of two models that survives the loss of either market."""
    return _plan(_two_models())


def test_loads_follow_from_shares(plan, tmp_path):
    """A pool's load is the sum of share times rate over throughput; its use is that a replica."""
    solved = FleetPlanner(inputs_of(_two_models(), tmp_path), Search()).solved({})
    loads = column_loads(solved.problem, solved.answer.shares)
    throughputs = {"A10G": ((2, 1), (5, 2)), "A100": ((20, 20), (40, 20))}
    rates = {"m": ((6, 3), (15, 6)), "n": ((0, 0), (2, 0))}
    for row in plan.replicas:
        by_range = {w.input_tokens_up_to: w for w in plan.weights if w.model == row.model}
        load = sum(
            by_range[end].shares_fraction.get(row.offer, 0.0) * rate / throughput
            for end, at, of in zip(
                (100, 500), rates[row.model], throughputs[row.offer], strict=True
            )
            if end in by_range
            for rate, throughput in zip(at, of, strict=True)
        )
        assert row.load_replicas == pytest.approx(load)
        assert row.utilisation_fraction == pytest.approx(load / row.replicas)
        assert row.utilisation_fraction <= row.utilisation_limit_fraction * (1 + 1e-5)
        assert row.cost_usd_per_hour == pytest.approx(row.replicas * row.price_usd_per_hour)
    assert sum(loads) == pytest.approx(sum(row.load_replicas for row in plan.replicas))
    assert plan.cost_usd_per_hour == pytest.approx(sum(r.cost_usd_per_hour for r in plan.replicas))


def test_ranges_leave_no_gap(plan):
    """A range without requests belongs to the next one, so that every input has weights."""
    spans = [
        (row.model, row.input_tokens_over, row.input_tokens_up_to, row.rate_requests_per_second)
        for row in plan.weights
    ]
    assert spans == [("m", 0, 100, 9), ("m", 100, 500, 21), ("n", 0, 500, 2)]
    for row in plan.weights:
        assert sum(row.weights.values()) == WEIGHT_SUM
        assert sum(row.shares_fraction.values()) == pytest.approx(1)
        assert row.output_tokens_up_to is None


def test_every_market_has_weights_for_its_loss(plan):
    """While a market is gone its offers weigh nothing, and every range is still served."""
    offers = {"on-demand": "A10G", "spot": "A100"}
    assert [loss.market for loss in plan.market_losses] == ["on-demand", "spot"]
    for loss in plan.market_losses:
        assert [row.model for row in loss.weights] == ["m", "m", "n"]
        assert all(offers[loss.market] not in row.weights for row in loss.weights)


def test_the_oracle_form_has_weights_by_output_too():
    """Its rows say which outputs they are for; the document says that no router can follow them."""
    plan = _plan(stated(shares="oracle"))
    assert plan.oracle_shares
    spans = [(row.input_tokens_up_to, row.output_tokens_over) for row in plan.weights]
    assert spans == [(100, 0), (100, 100), (500, 0), (500, 100)]
    assert plan.oracle_cost_usd_per_hour is None


def test_the_oracle_is_never_dearer():
    """The document holds the program's cost and that of the same program with an oracle."""
    plan = _plan(stated())
    assert plan.oracle_cost_usd_per_hour == pytest.approx(4.68)
    assert plan.program_cost_usd_per_hour >= plan.oracle_cost_usd_per_hour - 1e-9


def test_a_modelled_plan_carries_what_a_replay_needs():
    """Devices, sizes and coefficients of the offers in use stand in the document."""
    plan = _plan(modelled(verification=False))
    row = plan.replicas[0]
    assert row.speed == "modelled"
    assert row.gpu in {gpu.name for gpu in plan.gpus}
    assert row.model in plan.model_specs
    assert row.coefficients in {entry.name for entry in plan.coefficients}
    assert (row.weight_dtype, row.kv_dtype, row.max_context_tokens) == (
        "bfloat16",
        "bfloat16",
        16384,
    )
    assert any("speeds are modelled" in note for note in plan.notes)
    assert (plan.latency_verified, plan.latency) == (False, "latency not verified")


OWN_GPU = """
schema_version: 1
gpus:
  - name: MyGPU
    memory_bytes: 80GiB
    bandwidth_bytes_per_second: 2e+12
    dense_flops_per_second: {float16: 300e+12, bfloat16: 300e+12}
    interconnect: {kind: nvlink, bytes_per_second: 300e+9}
    source: measured here
    date: 2026-01
"""


def test_an_own_device_travels_in_the_plan(tmp_path):
    """Whatever its speed comes from: only the plan can tell renderers what the device is."""
    (tmp_path / "own.yaml").write_text(OWN_GPU)
    content = stated(catalogues=["own.yaml"], models=[served(source=LLAMA)])
    content["offers"] = [content["offers"][1] | {"gpu": "MyGPU"}]
    plan = plan_fleet(FleetConfig.model_validate(content), folder=tmp_path).plan
    assert [gpu.name for gpu in plan.gpus] == ["MyGPU"]
    for target in ("kubernetes", "compose", "skypilot"):
        assert render(plan, target, RenderOptions())


@pytest.mark.parametrize(
    ("gpu", "asked", "context"),
    [("L4", None, 40_262), ("L4", 8192, 8192), ("H100-SXM", None, 131_072)],
)
def test_the_context_is_what_a_replica_can_hold(gpu, asked, context):
    """Unless less is asked for: the model's own or what the cache holds, and engines are told so."""
    model = served(LLAMA, slo=SLO | {"tpot_seconds": 0.2}, max_context_tokens=asked)
    content = modelled(models=[model], offers=[{"gpu": gpu, "price_usd_per_hour": 1}])
    (row,) = (plan := _plan(content | {"verification": False})).replicas
    assert row.max_context_tokens == context
    assert planned_speed(plan, row).longest_request_tokens == context
    words = vllm_arguments(plan.models[0], row)
    assert words[words.index("--max-model-len") + 1] == str(context)


def test_replications_that_a_trace_does_not_have_are_noted(tmp_path):
    """A mix is replayed once, whatever is asked; a grid is drawn as often as asked, without a note."""
    content = modelled(verification={"replications": 500})
    assert any("verification.replications (500)" in n for n in inputs_of(content, tmp_path).notes)
    grid = content | {"models": [served(LLAMA, slo=SLO)]}
    plain = modelled(verification={"rounds": 3})
    for each in (grid, plain):
        assert not any("replications" in note for note in inputs_of(each, tmp_path).notes)


def test_a_plan_survives_its_file(plan, tmp_path):
    """Written to JSON and read back, it is the same."""
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json(indent=2))
    assert read_plan(path) == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 1}, "is a fleet plan of schema_version 1, this Motley reads 2"),
        ({"schema_version": None}, "is a fleet plan of schema_version None"),
        ({"kind": "training-plan"}, "is no fleet plan (kind 'training-plan')"),
        ({"kind": None}, "is no fleet plan (kind None)"),
        ({"prize": 1}, "prize: unknown key"),
        ({"cost_usd_per_hour": float("nan")}, "cost_usd_per_hour: Input should be a finite"),
    ],
)
def test_another_document_is_refused_by_name(change, message, plan, tmp_path):
    """A plan of another version, another kind of document or an unknown key is never half read."""
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(plan.model_dump_json()) | change))
    with pytest.raises(DocumentError) as caught:
        read_plan(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def _first(content, **fields):
    content["weights"][0] |= fields


BROKEN = {
    "a pool twice": (
        lambda c: c["replicas"].append(c["replicas"][0]),
        "is there twice; plan again",
    ),
    "a model twice": (lambda c: c["models"].append(c["models"][0]), "is there twice; plan again"),
    "weights of a stranger": (
        lambda c: _first(c, model="z"),
        "weights are not for each model of the plan",
    ),
    "no weights": (lambda c: c.update(weights=[]), "weights are not for each model of the plan"),
    "no weights for a loss": (
        lambda c: c["market_losses"][0].update(weights=[]),
        "weights are not for each model of the plan",
    ),
    "an offer without replicas": (
        lambda c: _first(c, shares_fraction={"H100": 1.0}),
        "weights of m name H100, which has no replica",
    ),
    "weights that do not sum": (
        lambda c: _first(c, weights=dict.fromkeys(c["weights"][0]["weights"], 1)),
        "weights of m do not sum to 1000",
    ),
    "shares that do not sum": (
        lambda c: _first(c, shares_fraction=dict.fromkeys(c["weights"][0]["weights"], 0.1)),
        "not to 1; plan again",
    ),
    "a gap": (
        lambda c: _first(c, input_tokens_over=7),
        "weights of m for inputs over 7 up to 100 tokens follow 0",
    ),
    "an empty range": (
        lambda c: c["weights"][1].update(input_tokens_up_to=100),
        "weights of m for inputs over 100 up to 100 tokens follow 100",
    ),
}


FITTED = {
    "knots": [1, 8],
    "base_seconds": [0.01, 0.02],
    "decode_context_token_seconds": 0,
    "prefill_token_seconds": 1e-5,
    "prefill_pair_seconds": 0,
    "kv_capacity_tokens": 1000,
    "max_context_tokens": 1000,
}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_batched_tokens": 10}, "A100: max_batched_tokens is 10, below the 256"),
        ({"fitted": FITTED | {"knots": [1]}}, "fitted.knots: holds 1; give at least 2"),
        ({"fitted": FITTED | {"knots": [8, 8]}}, "knots are (8, 8), which do not rise"),
        ({"fitted": FITTED | {"base_seconds": [1]}}, "base_seconds holds 1 numbers for 2 knots"),
        ({"fitted": FITTED | {"base_seconds": [0, 1]}}, "base_seconds are (0.0, 1.0), not above 0"),
        ({"fitted": FITTED | {"base_seconds": [2, 1]}}, "base_seconds are (2.0, 1.0), not above 0"),
    ],
)
def test_a_replica_that_cannot_compute_a_step_is_refused(fields, message, plan, tmp_path):
    """Step times and limits that no replay could run end as one line when the file is read."""
    content = json.loads(plan.model_dump_json())
    content["replicas"][-1] |= fields
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DocumentError) as caught:
        read_plan(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("case", BROKEN)
def test_a_plan_that_contradicts_itself_is_refused(case, plan):
    """Edited by hand into nonsense, a plan is refused with what is wrong."""
    change, message = BROKEN[case]
    content = json.loads(plan.model_dump_json())
    change(content)
    with pytest.raises(ValidationError) as caught:
        FleetPlan.model_validate(content)
    assert message in describe(caught.value)
