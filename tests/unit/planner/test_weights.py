"""Integer weights of shares."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.fleet.weights import integer_weights

parts = st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda each: sum(each) > 0.1)


def _shares(parts):
    total = math.fsum(parts)
    return {f"offer-{index}": part / total for index, part in enumerate(parts)}


@given(parts, st.integers(12, 2000))
def test_weights_sum_and_keep_every_share(parts, total):
    """They sum to the total, a share above 0 weighs at least 1, and a share of 0 nothing."""
    shares = _shares(parts)
    weights = integer_weights(shares, total=total)
    assert sum(weights.values()) == total
    assert weights.keys() == {name for name, share in shares.items() if share > 0}
    assert min(weights.values()) >= 1


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=12))
def test_weights_are_those_of_the_largest_remainder(parts):
    """Where no share is under one weight, each is rounded down and the largest remainders get one."""
    total = 1000
    whole = sum(parts)
    if min(parts) * total < whole:
        return
    floors = [part * total // whole for part in parts]
    order = sorted(range(len(parts)), key=lambda i: -(parts[i] * total % whole))
    given_one = set(order[: total - sum(floors)])
    weights = integer_weights({str(i): part / whole for i, part in enumerate(parts)}, total=total)
    for i, floor in enumerate(floors):
        remainder = parts[i] * total % whole
        edge = [parts[j] * total % whole for j in order]
        tied = sum(each == remainder for each in edge) > 1
        # Exact arithmetic and floats may part only where a remainder is 0 or tied.
        if tied or remainder == 0:
            assert abs(weights[str(i)] - parts[i] * total / whole) <= 1
        else:
            assert weights[str(i)] == floor + (i in given_one)


def test_a_trace_of_a_share_takes_its_weight_from_the_largest():
    """Three traces weigh 1 each, which the largest weight gives up."""
    shares = {"a": 1 - 3e-7, "b": 1e-7, "c": 1e-7, "d": 1e-7}
    assert integer_weights(shares, total=1000) == {"a": 997, "b": 1, "c": 1, "d": 1}


def test_equal_remainders_go_by_name():
    """The same shares give the same weights, whatever their order."""
    shares = {"c": 1 / 3, "a": 1 / 3, "b": 1 / 3}
    assert integer_weights(shares, total=1000) == {"a": 334, "b": 333, "c": 333}


def test_more_shares_than_weights_are_refused():
    """Three offers cannot all weigh something of 2."""
    with pytest.raises(ValueError, match="3 shares do not fit weights that sum to 2"):
        integer_weights({"a": 0.4, "b": 0.3, "c": 0.3}, total=2)
