"""The Melange paper's pattern with our model and our catalogue."""

import pytest
from benchmarks.melange_bands import TRAFFIC, compare, throughputs_of


@pytest.fixture(scope="module")
def throughputs():
    """Return the throughputs of all four devices at 120 ms."""
    return throughputs_of(0.12)


@pytest.mark.parametrize("traffic", sorted(TRAFFIC))
def test_a_mix_saves_against_the_best_single_type(traffic, throughputs):
    """For short, long and mixed requests some rate is served for less by a mix, none for more."""
    savings = [
        compare(TRAFFIC[traffic], rate, throughputs)["saving_fraction"] for rate in (2, 8, 16)
    ]
    assert min(savings) >= 0
    assert max(savings) > 0.05


def test_cheap_devices_serve_little_short_traffic(throughputs):
    """One short request a second needs no A100; two long ones do."""
    assert compare(TRAFFIC["short"], 1, throughputs)["cost"] <= 1.01
    assert "A100" in str(compare(TRAFFIC["long"], 2, throughputs)["mix"])


def test_tight_limits_exclude_slow_devices():
    """At 40 ms a token an L4 cannot decode a 7-billion-parameter model at 16 bits."""
    assert max(map(max, throughputs_of(0.04)["L4"])) == 0
