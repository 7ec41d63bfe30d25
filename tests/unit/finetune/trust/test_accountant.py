"""What privacy is said to be spent."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.errors import PrivacyBudgetError
from finetune.trust.accountant import check_budget, epsilon_spent, renyi_divergences


@pytest.mark.parametrize(
    ("noise", "probability", "rounds", "delta", "epsilon"),
    [
        (1, 1, 1, 1e-5, 4.7285),
        (1, 1, 10, 1e-5, 19.054),
        (2, 1, 5, 1e-5, 5.3777),
        (4, 1, 100, 1e-6, 15.328),
        (8, 1, 50, 1e-3, 3.0454),
        (0.5, 1, 20, 1e-5, 81.116),
        (1.1, 256 / 60000, 14040, 1e-5, 2.5944),
        (1, 0.1, 100, 1e-5, 7.9039),
        (0.7, 0.05, 200, 1e-6, 13.589),
        (0.5, 0.01, 20, 1e-5, 6.1296),
        (3, 0.3, 40, 1e-4, 2.7028),
        (10, 0.5, 1000, 1e-6, 8.8994),
        (1.3, 0.01, 10000, 1e-5, 4.2771),
    ],
)
def test_epsilon_is_that_of_the_reference(noise, probability, rounds, delta, epsilon):
    """Within 1 % of `RdpAccountant` of dp-accounting 0.6.0 with its own orders."""
    spent = epsilon_spent(
        noise_multiplier=noise, num_rounds=rounds, delta=delta, sampling_probability=probability
    )
    assert spent == pytest.approx(epsilon, rel=0.01)


@pytest.mark.parametrize(("deviation", "probability"), [(0.3, 0.01), (1.1, 0.004), (4.0, 0.5)])
def test_at_whole_orders_the_integral_is_the_sum_of_binomials(deviation, probability):
    """Mironov, Talwar and Zhang 2019, section 3.3: A is a finite sum at whole orders."""
    for order in (2, 3, 8, 32):
        terms = [
            math.log(math.comb(order, k))
            + (order - k) * math.log1p(-probability)
            + k * math.log(probability)
            + (k * k - k) / (2 * deviation**2)
            for k in range(order + 1)
        ]
        expected = np.logaddexp.reduce(terms) / (order - 1)
        (divergence,) = renyi_divergences(
            np.array([float(order)]), noise_multiplier=deviation, sampling_probability=probability
        )
        assert divergence == pytest.approx(expected, rel=1e-9)


def exact_delta(epsilon, deviation):
    """Return delta of one Gaussian release (Balle and Wang 2018, arXiv 1805.06530, theorem 8)."""

    def below(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    half, part = 1 / (2 * deviation), epsilon * deviation
    return below(half - part) - math.exp(epsilon) * below(-half - part)


@pytest.mark.parametrize("deviation", [0.5, 1.0, 3.0, 20.0])
def test_epsilon_is_never_below_the_exact_one(deviation):
    """At the epsilon we state, the exact failure probability is below delta: we never understate."""
    for delta in (1e-3, 1e-6):
        epsilon = epsilon_spent(noise_multiplier=deviation, num_rounds=1, delta=delta)
        assert exact_delta(epsilon, deviation) <= delta


@settings(max_examples=20)
@given(
    noise=st.floats(0.5, 10), rounds=st.integers(1, 200), probability=st.sampled_from([0.05, 1.0])
)
def test_epsilon_is_monotone(noise, rounds, probability):
    """More rounds, less noise, a smaller delta or more frequent clients never cost less."""

    def spent(noise=noise, rounds=rounds, delta=1e-5, probability=probability):
        return epsilon_spent(
            noise_multiplier=noise,
            num_rounds=rounds,
            delta=delta,
            sampling_probability=probability,
        )

    assert spent() <= spent(rounds=rounds + 1)
    assert spent() <= spent(noise=noise * 0.9)
    assert spent() <= spent(delta=1e-6)
    assert spent() <= spent(probability=1.0) * (1 + 1e-9)


def test_nothing_published_costs_nothing():
    """Before the first round epsilon is zero."""
    assert epsilon_spent(noise_multiplier=1.0, num_rounds=0, delta=1e-5) == 0.0


def test_a_round_past_the_budget_is_refused():
    """The error names epsilon, the limit and what to do; the rounds before it are fine."""
    asked = {"noise_multiplier": 2.0, "delta": 1e-5, "most_epsilon": 5.4}
    assert check_budget(num_rounds=5, **asked) == pytest.approx(5.378, rel=0.01)
    with pytest.raises(PrivacyBudgetError, match=r"round 6 would bring epsilon to 5\.98"):
        check_budget(num_rounds=6, **asked)


@pytest.mark.parametrize(
    "wrong",
    [{"noise_multiplier": 0.0}, {"delta": 1.0}, {"sampling_probability": 0.0}, {"num_rounds": -1}],
)
def test_arguments_out_of_range_are_refused(wrong):
    """No noise, a delta of one or clients that never take part have no epsilon."""
    sound = {"noise_multiplier": 1.0, "delta": 1e-5, "num_rounds": 3}
    with pytest.raises(ValueError, match=r"must be positive|is not in"):
        epsilon_spent(**(sound | wrong))
