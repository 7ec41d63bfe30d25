"""The planned file: what it refuses, and the names it makes."""

import re

import pytest
import yaml
from fleet_files import LLAMA, SLO, modelled, served, stated, written
from pydantic import TypeAdapter, ValidationError

from planner.documents import describe, read_document
from planner.errors import DocumentError
from planner.fleet.fleet_config import FleetConfig, GpuCap, ServedModel, Verification
from planner.fleet.offers import Offer
from planner.fleet.requests_config import MixRequests, Requests, TraceRequests
from planner.workloads.slo import Slo
from planner.workloads.workload import Workload

SECTIONS = (FleetConfig, ServedModel, Offer, GpuCap, Verification, Slo)


def _offer(**fields):
    return Offer.model_validate(fields)


REFUSED_OFFERS = {
    "no name": ({"price_usd_per_hour": 1}, "has neither name nor gpu"),
    "no speed": ({"name": "a", "price_usd_per_hour": 1}, "a has no speed; give gpu, profile or"),
    "two speeds": (
        {"gpu": "L4", "throughput_requests_per_second": [[1]], "profile": "p.json"},
        "L4/on-demand states throughputs beside a profile",
    ),
    "owned at a price": (
        {"gpu": "L4", "market": "owned", "price_usd_per_hour": 2},
        "L4/owned is owned at 2 USD an hour",
    ),
    "owned without end": (
        {"gpu": "L4", "market": "owned"},
        "L4/owned is owned without a cap; say how many with max_gpus or max_replicas",
    ),
    "no price": (
        {"name": "a", "throughput_requests_per_second": [[1]]},
        "a has no price_usd_per_hour; add it (0 where owned)",
    ),
    "one speed for two degrees": (
        {"gpu": "L4", "tensor_parallel": [1, 2], "throughput_requests_per_second": [[1]]},
        "L4/on-demand has one measured speed and 2 degrees of parallelism",
    ),
    "no degrees": (
        {"gpu": "L4", "tensor_parallel": []},
        "tensor_parallel: holds 0; give at least 1",
    ),
    "degree 0": ({"gpu": "L4", "tensor_parallel": [0]}, "greater than or equal to 1 (got 0)"),
    "degree 65": ({"gpu": "L4", "pipeline_parallel": [65]}, "less than or equal to 64 (got 65)"),
    "market": ({"gpu": "L4", "market": "reserved"}, "market: Input should be 'on-demand'"),
    "negative price": ({"gpu": "L4", "price_usd_per_hour": -1}, "price_usd_per_hour: Input should"),
    "fraction of a replica": ({"gpu": "L4", "max_gpus": 1.5}, "max_gpus: Input should be a valid"),
}


@pytest.mark.parametrize("case", REFUSED_OFFERS)
def test_an_offer_that_makes_no_sense_is_refused(case):
    """The message names the offer or the field, the value, and what to do."""
    fields, message = REFUSED_OFFERS[case]
    with pytest.raises(ValidationError) as caught:
        _offer(**fields)
    assert message in describe(caught.value)


@pytest.mark.parametrize(
    ("where", "near"),
    [
        (("budget",), "budget_usd_per_hour"),
        (("offers", 0, "tensor_paralel"), "tensor_parallel"),
        (("caps", 0, "max_gpu"), "max_gpus"),
        (("verification", "round"), "rounds"),
        (("models", 0, "slo", "ttft_second"), "ttft_seconds"),
        (("models", 0, "workload", "histogram"), "histogram_fraction"),
    ],
)
def test_an_unknown_key_is_told_with_those_spelt_like_it(where, near, tmp_path):
    """Those of its own section, however deep it is."""
    content = stated(caps=[{"max_gpus": 1}], verification={"rounds": 2})
    content["models"][0]["slo"] = dict(SLO)
    section = content
    for part in where[:-1]:
        section = section[part]
    section[where[-1]] = 1
    with pytest.raises(DocumentError) as caught:
        read_document(written(content, tmp_path), FleetConfig)
    assert re.search(rf"{where[-1]}: unknown key; near: [^;]*\b{near}\b", str(caught.value))


def test_offers_are_named_by_device_market_and_region():
    """Without a name an offer has the one that caps and tables show."""
    assert _offer(gpu="L4").base_name == "L4/on-demand"
    assert _offer(gpu="L4", market="spot", region="r1").base_name == "L4/spot/r1"
    assert _offer(gpu="L4", name="cheap").base_name == "cheap"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"gpu": "L4"}, ["L4/on-demand"]),
        ({"gpu": "L4", "tensor_parallel": [2]}, ["2xL4/on-demand"]),
        ({"gpu": "L4", "name": "pair", "tensor_parallel": [2]}, ["pair"]),
        ({"gpu": "L4", "tensor_parallel": [1, 2]}, ["L4/on-demand", "2xL4/on-demand"]),
        (
            {"gpu": "L4", "name": "a", "tensor_parallel": [1, 2], "pipeline_parallel": [1, 2]},
            ["a", "2x1xa", "2xa", "2x2xa"],
        ),
    ],
)
def test_every_degree_has_a_name_of_its_own(fields, names):
    """Tensor-parallel devices stand before the offer, pipeline stages before those."""
    offer = _offer(**fields)
    assert [offer.replica_name(*degrees) for degrees in offer.degrees] == names


def test_the_limit_of_an_offer_goes_before_the_files():
    """An offer without a limit has the file's."""
    assert _offer(gpu="L4").limit_fraction(0.85) == 0.85
    assert _offer(gpu="L4", utilisation_limit_fraction=0.5).limit_fraction(0.85) == 0.5


def test_a_cap_counts_what_matches_every_field_it_gives():
    """Device (in any case of its letters), market and region narrow a cap; without them it is on all."""
    spot = _offer(gpu="L4", market="spot", region="r1")
    named = _offer(name="own", market="owned", throughput_requests_per_second=[[1]], max_replicas=1)
    cases = [
        ({}, True, True, "all devices"),
        ({"gpu": "l4"}, True, False, "l4"),
        ({"gpu": "H100"}, False, False, "H100"),
        ({"market": "owned"}, False, True, "owned"),
        ({"gpu": "L4", "market": "spot", "region": "r1"}, True, False, "L4/spot/r1"),
        ({"gpu": "L4", "region": "r2"}, False, False, "L4/r2"),
    ]
    for fields, covers_spot, covers_named, name in cases:
        cap = GpuCap(max_gpus=1, **fields)
        assert (cap.covers(spot), cap.covers(named), cap.name) == (covers_spot, covers_named, name)


def _two(content):
    content["models"].append(served("n"))


def _grid(**fields):
    return lambda content: content["models"][0]["workload"].update(fields)


REFUSED_FILES = {
    "version 1": (
        lambda c: c.update(schema_version=1),
        "schema_version: is 1, read is 2",
    ),
    "no version": (lambda c: c.pop("schema_version"), "schema_version: is required"),
    "no models": (lambda c: c.update(models=[]), "models: holds 0; give at least 1"),
    "no offers": (lambda c: c.update(offers=[]), "offers: holds 0; give at least 1"),
    "a model twice": (lambda c: c["models"].append(served()), "models: m is there twice"),
    "an offer twice": (lambda c: c["offers"].append(c["offers"][0]), "offers: A10G is there twice"),
    "a degree twice": (
        lambda c: c["offers"].append({"gpu": "L4", "tensor_parallel": [1, 1]}),
        "offers: L4/on-demand is there twice",
    ),
    "change of nothing": (
        lambda c: c.update(max_change_replicas=1),
        "max_change_replicas needs current_plan",
    ),
    "a cap on nothing": (
        lambda c: c.update(caps=[{"gpu": "H10", "max_gpus": 1}]),
        "caps: no offer is of H10; correct the cap or remove it",
    ),
    "one matrix for two models": (_two, "A10G states one throughput matrix for 2 models"),
    "a matrix of a stranger": (
        lambda c: c["offers"][0].update(throughput_requests_per_second={"z": [[1, 1], [1, 1]]}),
        "throughput_requests_per_second of A10G: z is none of the models",
    ),
    "a matrix for a mix": (
        lambda c: c["models"][0].update(workload={"mix": "chat", "requests_per_second": 1}),
        "m takes its workload from a trace or a mix, whose grid is not fixed",
    ),
    "a matrix too short": (
        lambda c: c["offers"][0].update(throughput_requests_per_second=[[1, 1]]),
        "throughput_requests_per_second of A10G has 1 rows, the workload 2 input ranges",
    ),
    "a ragged matrix": (
        lambda c: c["offers"][0].update(throughput_requests_per_second=[[1, 1], [1]]),
        "throughput_requests_per_second of A10G has 1 numbers in row 2",
    ),
    "ragged rates": (
        _grid(rates_requests_per_second=[[1, 1], [1]]),
        "rates_requests_per_second has 1 numbers in row 2",
    ),
    "no requests": (_grid(rates_requests_per_second=[[0, 0], [0, 0]]), "holds no requests"),
    "an unknown loss": (lambda c: c.update(survive=["one-region"]), "survive.0: Input should be"),
    "a spot share above 1": (lambda c: c.update(max_spot_fraction=1.5), "max_spot_fraction: Input"),
    "too few replications": (
        lambda c: c.update(verification={"replications": 9}),
        "verification.replications: Input should be greater than or equal to 10 (got 9)",
    ),
    "a target without limits": (
        lambda c: c["models"][0].update(slo={}),
        "models.0.slo: sets no limit; give ttft_seconds, tpot_seconds or both",
    ),
    "a target of NaN": (
        lambda c: c["models"][0].update(slo={"ttft_seconds": float("nan")}),
        "models.0.slo.ttft_seconds",
    ),
    "a mix without a rate": (
        lambda c: c["models"][0].update(workload={"mix": "chat"}),
        "requests_per_second: is required",
    ),
    "a trace and a mix": (
        lambda c: c["models"][0].update(workload={"mix": "chat", "trace": "t.csv"}),
        "mix: unknown key",
    ),
}


@pytest.mark.parametrize("case", REFUSED_FILES)
def test_a_file_that_makes_no_sense_is_refused(case):
    """The message names the field, the value, and what to do."""
    change, message = REFUSED_FILES[case]
    content = stated()
    change(content)
    with pytest.raises(ValidationError) as caught:
        FleetConfig.model_validate(content)
    assert message in describe(caught.value)


def test_verification_is_on_unless_switched_off():
    """YAML's `on` and `off`, the same in quotes, a section, and nothing at all are understood."""
    for value, expected in (
        (True, Verification()),
        (False, None),
        ("on", Verification()),
        ("off", None),
        ({"rounds": 2}, Verification(rounds=2)),
    ):
        config = FleetConfig.model_validate(stated(verification=value))
        assert config.verification == expected
    assert FleetConfig.model_validate(modelled()).verification == Verification()


def test_quantised_weights_keep_a_cache_of_16_bits():
    """The cache has the format of plain weights, bfloat16 under quantised ones, or the one asked."""
    for fields, expected in (
        ({"weight_dtype": "float16"}, "float16"),
        ({"weight_dtype": "fp8"}, "bfloat16"),
        ({"weight_dtype": "bfloat16", "kv_dtype": "fp8"}, "fp8"),
    ):
        content = modelled()
        content["models"][0].update(fields)
        assert FleetConfig.model_validate(content).models[0].cache_dtype == expected


def test_weights_come_from_the_source_or_the_name():
    """A model served under a short name still finds its sizes."""
    content = modelled()
    assert FleetConfig.model_validate(content).models[0].weights == LLAMA
    content["models"][0].update(name="chat", source=LLAMA)
    assert FleetConfig.model_validate(content).models[0].weights == LLAMA


@pytest.mark.parametrize("section", [*SECTIONS, Workload, TraceRequests, MixRequests])
def test_the_annotated_example_shows_every_key(section, repository):
    """A key that a fleet file may hold stands in the example, perhaps as a comment."""
    text = (repository / "configs/fleet/every-key-example.yaml").read_text()
    keys = set(re.findall(r"^[ #]*(?:- )?(\w+):", text, re.MULTILINE))
    keys |= set(re.findall(r"[{,] ?(\w+):", text))
    assert set(section.model_fields) <= keys


def test_what_the_annotated_example_holds_as_comments_is_valid(repository):
    """Each commented workload and offer keeps the schema as it stands."""
    text = (repository / "configs/fleet/every-key-example.yaml").read_text()
    blocks = re.findall(r"(?:^ *#   .*\n)+", text, re.MULTILINE)
    parts = [yaml.safe_load(re.sub(r"^ *#", "", block, flags=re.MULTILINE)) for block in blocks]
    forms = [part["workload"] for part in parts if "workload" in part]
    kinds = [type(TypeAdapter(Requests).validate_python(form)) for form in forms]
    assert kinds == [TraceRequests, MixRequests]
    offers = [_offer(**part[0]).base_name for part in parts if isinstance(part, list)]
    assert offers == ["measured", "stated"]
