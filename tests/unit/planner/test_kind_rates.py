"""The rates of a kind of replica, the longest requests, and which may be late."""

from pathlib import Path

import pytest
from fleet_files import LLAMA, SLO, chat_trace, inputs_of, logged, modelled, served, stated

from planner.errors import PlannerError, UnknownNameError, WorkloadError
from planner.fleet.fleet_models import lengths_of
from planner.fleet.kind_rates import tail_sizes

NOWHERE = Path()


def _model(content, folder=NOWHERE):
    return inputs_of(content, folder).models[0]


def _grid(**fields):
    """Return a modelled file whose one model has a two-by-two grid."""
    return modelled(models=[served(LLAMA, slo=SLO, max_context_tokens=16384, **fields)])


def test_stated_rates_are_those_of_sizes_with_requests(tmp_path):
    """Cells without requests are left out; a throughput of 0 is an obstacle."""
    content = stated(models=[served(rates=((6, 0), (15, 6)))])
    content["offers"][0]["throughput_requests_per_second"] = [[2, 1], [5, None]]
    first, second = inputs_of(content, tmp_path).kinds
    assert [rate.requests_per_second for rate in first.speed.rates] == [2, 5, 0]
    assert [rate.obstacle for rate in first.speed.rates] == ["", "", "throughput 0"]
    assert [rate.requests_per_second for rate in second.speed.rates] == [20, 40, 20]
    assert (first.source, first.speed.speed, first.price_usd_per_hour) == ("stated", None, 1.01)


def test_a_model_that_an_offer_states_nothing_of_is_not_served(tmp_path):
    """Its rates are 0, and the obstacle says why."""
    content = stated(models=[served("m"), served("n")])
    for offer, matrix in zip(
        content["offers"], ([[2, 1], [5, 2]], [[20, 20], [40, 20]]), strict=True
    ):
        offer["throughput_requests_per_second"] = {"m": matrix}
    content["offers"][1]["throughput_requests_per_second"]["n"] = [[1, 1], [1, 1]]
    kinds = inputs_of(content, tmp_path).kinds
    assert [kind.name for kind in kinds] == ["A10G", "A100", "A10G", "A100"]
    assert [kind.model for kind in kinds] == [0, 0, 1, 1]
    assert {rate.obstacle for rate in kinds[2].speed.rates} == {"states no throughput of n"}
    assert all(rate.requests_per_second == 1 for rate in kinds[3].speed.rates)


def test_a_replica_costs_as_many_devices_as_it_has(tmp_path):
    """Price and devices of a kind grow with its degrees; the name tells them apart."""
    kinds = inputs_of(_grid(), tmp_path).kinds
    one, two = kinds[:2]
    assert (one.name, two.name) == ("L4/on-demand/aws-us-east-1", "2xL4/on-demand/aws-us-east-1")
    assert (one.num_devices, two.num_devices) == (1, 2)
    assert two.price_usd_per_hour == pytest.approx(2 * one.price_usd_per_hour)
    pairs = zip(one.speed.rates, two.speed.rates, strict=True)
    assert all(a.requests_per_second < b.requests_per_second for a, b in pairs)


def test_the_price_of_an_offer_without_a_device_is_that_of_a_replica(tmp_path):
    """Its degrees count its devices against caps, and leave its price as stated."""
    content = stated()
    content["offers"][0] |= {"tensor_parallel": [2], "price_usd_per_hour": 10}
    kind = inputs_of(content, tmp_path).kinds[0]
    assert (kind.num_devices, kind.price_usd_per_hour) == (2, 10)


def test_a_device_too_small_for_the_weights_says_so(tmp_path):
    """141 GB of weights do not fit an L4's 24 GB: no rate, and the reason names both."""
    content = _grid() | {"offers": [{"gpu": "L4", "price_usd_per_hour": 0.5}]}
    content["models"][0]["source"] = "meta-llama/Llama-3.1-70B-Instruct"
    (kind,) = inputs_of(content, tmp_path).kinds
    assert all(rate.requests_per_second == 0 for rate in kind.speed.rates)
    (obstacle,) = {rate.obstacle for rate in kind.speed.rates}
    assert "weights 141 GB do not fit 1 x L4 of 24 GB" in obstacle


def test_a_request_beyond_the_context_is_an_obstacle(tmp_path):
    """The longest request of a range decides, not its mean."""
    content = _grid()
    content["models"][0]["max_context_tokens"] = 700
    rates = inputs_of(content, tmp_path).kinds[-1].speed.rates
    assert [rate.obstacle for rate in rates][3] == (
        "its longest request has 1000 tokens, the context 700"
    )
    assert all(rate.requests_per_second > 0 for rate in rates[:3])


def test_a_modelled_speed_needs_a_target(tmp_path):
    """Without an slo a rate means nothing, so none is made up."""
    with pytest.raises(WorkloadError, match="has no slo, which the modelled speed of L4 needs"):
        inputs_of(modelled(models=[served(LLAMA)]), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["offers"].append({"gpu": "L4000"}), "no device is called L4000"),
        (lambda c: c["models"][0].update(source="meta/llama"), "no model is called meta/llama"),
        (lambda c: c.update(coefficients="none"), "no set of coefficients is called none"),
    ],
)
def test_unknown_names_are_refused_with_their_neighbours(change, message, tmp_path):
    """A device, model or set of coefficients that no catalogue lists is never replaced by another."""
    content = _grid()
    change(content)
    with pytest.raises(UnknownNameError, match=message):
        inputs_of(content, tmp_path)


def test_a_missing_trace_or_catalogue_is_named(tmp_path):
    """The path stands in the message."""
    content = modelled()
    content["models"][0]["workload"] = {"trace": "none.csv"}
    with pytest.raises(PlannerError, match=r"none\.csv: no such file \(workload of meta-llama"):
        inputs_of(content, tmp_path)
    with pytest.raises(PlannerError, match=r"prices\.yaml: no such file"):
        inputs_of(modelled(catalogues=["prices.yaml"]), tmp_path)


def test_a_trace_file_named_like_a_mix_is_read(tmp_path, monkeypatch):
    """The planned file says `trace`, so a file `chat` in the working folder is no mix."""
    trace = chat_trace(duration_seconds=20)
    logged(trace, tmp_path, name="chat")
    monkeypatch.chdir(tmp_path)
    content = modelled()
    content["models"][0]["workload"] = {"trace": "chat"}
    model = _model(content)
    assert model.trace.input_tokens == tuple(trace.input_tokens)
    assert model.replayed.startswith("chat (")


def test_the_longest_request_of_a_trace_is_looked_up(tmp_path):
    """For every size it is the largest sum that the trace holds in that cell."""
    trace = chat_trace(duration_seconds=60)
    content = modelled()
    content["models"][0]["workload"] = {"trace": str(logged(trace, tmp_path))}
    model = _model(content, tmp_path)
    largest = dict.fromkeys(range(len(model.sizes())), 0)
    for inputs, outputs in zip(trace.input_tokens, trace.output_tokens, strict=True):
        (cell,) = [
            s
            for s, size in enumerate(model.sizes())
            if size.input_tokens_over < inputs <= size.input_tokens_up_to
            and size.output_tokens_over < outputs <= size.output_tokens_up_to
        ]
        largest[cell] = max(largest[cell], inputs + outputs)
    assert model.largest_tokens() == tuple(largest.values())
    assert all(largest.values())


def test_the_longest_request_of_a_grid_is_the_longest_that_is_drawn():
    """Without means it is the range's end; with them, as far above the mean as the range allows."""
    assert _model(_grid()).largest_tokens() == (200, 600, 600, 1000)
    content = _grid()
    content["models"][0]["workload"] |= {
        "mean_input_tokens": [[20, 20], [450, 450]],
        "mean_output_tokens": [[60, 200], [60, 200]],
    }
    model = _model(content)
    # 20 lies 19 above the least input, so up to 39; 60 lies 40 under its end, so up to 100; and so on.
    assert model.largest_tokens() == (139, 338, 600, 799)
    assert [lengths_of(size) for size in model.sizes()] == [
        (20, 60),
        (20, 200),
        (450, 60),
        (450, 200),
    ]


def test_a_grid_without_means_is_noted():
    """Modelled speeds then take every request to be as long as its range allows, and say so."""
    assert "states no mean tokens" in _model(_grid()).notes[0]
    assert _model(stated()).notes == ()


@pytest.mark.parametrize(
    ("statistic", "rates", "expected"),
    [
        # p90 lets 10 % be late, half of which planning gives to the longest range: 5 %.
        ("p90", ((95, 0), (3, 2)), {1, 2}),
        ("p90", ((94, 0), (3, 3)), set()),
        ("p95", ((98, 0), (1, 1)), {1, 2}),
        ("p99", ((98, 0), (1, 1)), set()),
        ("mean", ((99.9, 0), (0.05, 0.05)), set()),
    ],
)
def test_the_longest_inputs_may_be_late_by_half_of_what_a_percentile_allows(
    statistic, rates, expected
):
    """Whole input ranges, the longest first, are planned without the limit on the first token."""
    slo = {"ttft_seconds": 1.0, "ttft_statistic": statistic}
    content = modelled(models=[served(LLAMA, rates=rates, slo=slo)])
    assert tail_sizes(_model(content)) == expected


def test_without_a_limit_on_the_first_token_none_is_late():
    """A target on the time per token gives no room."""
    content = modelled(models=[served(LLAMA, rates=((99, 0), (1, 0)), slo={"tpot_seconds": 0.1})])
    assert tail_sizes(_model(content)) == frozenset()
