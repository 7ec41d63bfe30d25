"""What one device of an offer costs."""

import pytest

from planner.errors import PriceError, UnknownNameError
from planner.fleet.offer_prices import device_price
from planner.fleet.offers import Offer
from planner.hardware.catalogue import load_catalogue

PRICES = """
schema_version: 1
prices:
  - {gpu: L4, market: spot, region: here, usd_per_hour: 0.3, source: a test, date: "2026"}
  - {gpu: L4, market: spot, region: there, usd_per_hour: 0.4, source: a test, date: "2026"}
"""


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Return the built-in catalogue with two spot prices of the L4."""
    path = tmp_path_factory.mktemp("prices") / "own.yaml"
    path.write_text(PRICES)
    return load_catalogue([path])


def _price(catalogue, **fields):
    return device_price(Offer(**fields), catalogue)


def test_the_files_price_goes_before_the_catalogues(catalogue):
    """A stated price is taken as it is, 0 too; owned devices cost nothing."""
    assert _price(catalogue, gpu="L4", region="here", price_usd_per_hour=0.9) == 0.9
    assert _price(catalogue, gpu="L4", price_usd_per_hour=0) == 0
    assert _price(catalogue, gpu="L4", market="owned", max_gpus=1) == 0
    own = {"throughput_requests_per_second": [[1]], "market": "owned", "max_replicas": 1}
    assert _price(catalogue, name="a", **own) == 0


def test_the_catalogue_gives_the_price_of_device_market_and_region(catalogue):
    """The device is found in any case of its letters."""
    assert _price(catalogue, gpu="L4", market="spot", region="here") == 0.3
    assert _price(catalogue, gpu="l4", market="spot", region="there") == 0.4


def test_several_prices_ask_for_a_region(catalogue):
    """Nothing picks one of two prices silently; both are named."""
    with pytest.raises(PriceError, match=r"prices of L4 are known .*spot here \$0.3, spot there"):
        _price(catalogue, gpu="L4", market="spot")


def test_no_price_names_those_that_are_known(catalogue):
    """The message lists what is known of the device, and says what to do."""
    with pytest.raises(
        PriceError, match=r"L4/spot/moon: no spot price of L4 in moon is known \(known: .*spot here"
    ):
        _price(catalogue, gpu="L4", market="spot", region="moon")


def test_an_unknown_device_is_named_with_its_neighbours(catalogue):
    """A misspelled device is never priced as another."""
    with pytest.raises(UnknownNameError, match="no device is called H1000"):
        _price(catalogue, gpu="H1000")
