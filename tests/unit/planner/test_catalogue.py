"""The catalogues: what ships, what a user's file replaces, and names that stand in none."""

import pytest

from planner.errors import DocumentError, UnknownNameError
from planner.hardware.catalogue import Catalogue, built_in_catalogue, load_catalogue

CATALOGUE = built_in_catalogue()

OWN_GPU = """
schema_version: 1
gpus:
  - name: L4
    memory_bytes: 24GiB
    bandwidth_bytes_per_second: 250e+9
    dense_flops_per_second: {float16: 100e+12}
    interconnect: {kind: pcie, bytes_per_second: 31.5e+9}
    source: measured here
    date: 2026-01-15
"""


def test_the_devices_that_must_ship():
    """The list holds every device the planner promises, and hosts without an accelerator."""
    names = {gpu.name for gpu in CATALOGUE.gpus}
    assert names >= {
        *("T4", "L4", "A10G", "L40S", "A40", "RTX-4090", "A100-40GB", "A100-80GB"),
        *("H100-PCIe", "H100-SXM", "H200", "B200", "MI300X"),
    }
    assert any(gpu.kind == "cpu" for gpu in CATALOGUE.gpus)


@pytest.mark.parametrize("gpu", CATALOGUE.gpus, ids=lambda gpu: gpu.name)
def test_peaks_rise_as_formats_narrow(gpu):
    """Narrow formats are never slower than wide ones, and sparse figures have not slipped in."""
    peaks = gpu.dense_flops_per_second
    order = [peaks[dtype] for dtype in ("float32", "bfloat16", "fp8") if dtype in peaks]
    assert order == sorted(order)
    if "fp8" in peaks:
        assert peaks["fp8"] == pytest.approx(2 * peaks["bfloat16"], rel=0.02)


def test_the_prices_of_the_paper():
    """The four prices of the Melange paper stand in the list."""
    prices = {p.gpu: p.usd_per_hour for p in CATALOGUE.prices if p.region == "melange-paper"}
    assert prices == {"L4": 0.70, "A10G": 1.01, "A100-80GB-PCIe": 3.67, "H100-SXM": 7.516}


def test_prices_have_both_markets_and_name_known_devices():
    """Every price is for a listed device; some are spot, below on-demand in the same region."""
    assert {price.market for price in CATALOGUE.prices} == {"on-demand", "spot"}
    for price in CATALOGUE.prices:
        CATALOGUE.gpu(price.gpu)
        if price.market == "spot":
            (other,) = CATALOGUE.prices_of(price.gpu, market="on-demand", region=price.region)
            assert price.usd_per_hour < other.usd_per_hour


def test_an_unknown_device_lists_near_names():
    """A name without its form factor brings up the forms; a wild one brings up everything."""
    with pytest.raises(UnknownNameError, match=r"no device is called H100; near: .*H100-SXM"):
        CATALOGUE.gpu("H100")
    with pytest.raises(UnknownNameError, match=r"near: T4, L4, .*cpu-epyc-9654"):
        CATALOGUE.gpu("quantum-annealer")


def test_letters_of_either_case_find_a_device():
    """`a100-80gb` is `A100-80GB`."""
    assert CATALOGUE.gpu("a100-80gb").name == "A100-80GB"


def test_own_entries_replace_and_add(tmp_path):
    """A user's price replaces the one of its device, market and region; others stay."""
    path = tmp_path / "prices.yaml"
    path.write_text(
        "schema_version: 1\nprices:\n"
        "  - {gpu: L4, market: on-demand, region: melange-paper, usd_per_hour: 0.5,"
        " source: invoice, date: 2026-02}\n"
        "  - {gpu: L4, market: owned, region: cellar, usd_per_hour: 0, source: ours, date: 2026}\n"
    )
    own = load_catalogue([path])
    (price,) = own.prices_of("L4", region="melange-paper")
    assert price.usd_per_hour == 0.5
    assert len(own.prices) == len(CATALOGUE.prices) + 1


def test_an_own_device_replaces_the_built_in_one(tmp_path):
    """A user's description of a device is taken over ours."""
    path = tmp_path / "gpus.yaml"
    path.write_text(OWN_GPU)
    assert load_catalogue([path]).gpu("L4").bandwidth_bytes_per_second == 250e9


def test_own_entries_replace_whatever_the_case_of_their_letters(tmp_path):
    """A user's `l4` is our L4 described anew, with its own price and ours of other regions."""
    path = tmp_path / "own.yaml"
    path.write_text(
        OWN_GPU.replace("L4", "l4")
        + "prices:\n  - {gpu: L4, market: on-demand, region: Melange-Paper, usd_per_hour: 0.5,"
        " source: invoice, date: 2026-02}\n"
    )
    own = load_catalogue([path])
    assert own.gpu("L4").bandwidth_bytes_per_second == 250e9
    assert len(own.gpus) == len(CATALOGUE.gpus)
    (price,) = own.prices_of(own.gpu("L4").name, region="melange-paper")
    assert price.usd_per_hour == 0.5
    assert len(own.prices_of("l4")) == len(CATALOGUE.prices_of("L4"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("usd_per_hour: -1", "greater than or equal to 0"),
        ("usd_per_hour: .nan", "finite"),
        ("usd_per_hour: yes", "not true or false"),
        ("colour: red", "unknown key"),
    ],
)
def test_bad_prices_are_refused(tmp_path, line, message):
    """A negative or missing price and an unknown key end as one line."""
    path = tmp_path / "prices.yaml"
    path.write_text(
        "schema_version: 1\nprices:\n"
        f"  - {{gpu: L4, market: spot, region: r, {line}, source: s, date: 2026}}\n"
    )
    with pytest.raises(DocumentError, match=message):
        load_catalogue([path])


def test_a_price_for_an_unknown_device_is_refused(tmp_path):
    """A misspelled device in a price list would otherwise never be planned."""
    path = tmp_path / "prices.yaml"
    path.write_text(
        "schema_version: 1\nprices:\n"
        "  - {gpu: L5, market: spot, region: r, usd_per_hour: 1, source: s, date: 2026}\n"
    )
    with pytest.raises(UnknownNameError, match="L4"):
        load_catalogue([path])


def test_an_entry_twice_is_refused():
    """Two devices of one name in one file are a mistake."""
    gpu = CATALOGUE.gpus[0].model_dump()
    with pytest.raises(ValueError, match=r"gpus: T4 is there twice; remove one"):
        Catalogue.model_validate({"schema_version": 1, "gpus": [gpu, gpu]})


def test_formats_without_units():
    """Quantised weights are widened where there are no units; bfloat16 never becomes float16."""
    t4, a100 = CATALOGUE.gpu("T4"), CATALOGUE.gpu("A100-80GB")
    assert a100.compute_dtype("fp8") == "bfloat16"
    assert a100.compute_dtype("int8") == "int8"
    assert t4.compute_dtype("int4") == "float16"
    assert t4.compute_dtype("bfloat16") is None
