"""Ranks by energy and by a budget, against trying every choice."""

import itertools

import numpy as np
import pytest

from finetune.low_rank import Spectrum
from finetune.rank_choice import by_energy, rank_of_energy, within_bytes


def spectrum(values, *, outputs, inputs):
    """Return a spectrum with these singular values."""
    size = len(values)
    return Spectrum(np.eye(outputs)[:, :size], np.array(values, float), np.eye(inputs)[:size])


@pytest.mark.parametrize(
    ("fraction", "rank"), [(0.1, 1), (0.64, 1), (0.65, 2), (0.999, 3), (1.0, 3)]
)
def test_energy_keeps_the_least_rank_that_has_it(fraction, rank):
    """Squares 64, 32, 4 of 100; the zero value is never needed."""
    values = np.sqrt([64.0, 32.0, 4.0, 0.0])
    assert rank_of_energy(values, fraction) == rank


def test_a_module_of_zeros_keeps_rank_one():
    """An untrained module still needs a rank that PEFT takes."""
    assert rank_of_energy(np.zeros(3), 0.99) == 1


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.1, float("nan")])
def test_energy_is_a_share(fraction):
    """Anything else is the caller's mistake."""
    with pytest.raises(ValueError, match="is no share"):
        rank_of_energy(np.ones(2), fraction)


SPECTRA = {
    "wide": spectrum([9.0, 5.0, 4.0], outputs=6, inputs=4),
    "small": spectrum([3.0, 2.9, 0.1], outputs=3, inputs=3),
    "zero": spectrum([0.0, 0.0], outputs=2, inputs=2),
}


def energy(ranks):
    """Return the energy these ranks keep."""
    return sum(float(np.sum(SPECTRA[name].values_K[:rank] ** 2)) for name, rank in ranks.items())


def cost(ranks):
    """Return the bytes these ranks take at two bytes a value."""
    return 2 * sum({"wide": 10, "small": 6, "zero": 4}[name] * r for name, r in ranks.items())


@pytest.mark.parametrize("budget", range(40, 90, 2))
def test_a_budget_is_kept_and_spent_by_energy_a_byte(budget):
    """Each prefix of the purchases is the best of its cost; nothing more of a module fits."""
    ranks = within_bytes(budget + 7, value_bytes=2, other_bytes=7)(SPECTRA)
    assert cost(ranks) <= budget
    assert ranks["zero"] == 1
    best = max(
        energy(dict(zip(SPECTRA, choice, strict=True)))
        for choice in itertools.product((1, 2, 3), (1, 2, 3), (1,))
        if cost(dict(zip(SPECTRA, choice, strict=True))) <= cost(ranks)
    )
    assert energy(ranks) == pytest.approx(best)


@pytest.mark.parametrize(("budget", "rank"), [(40, 1), (79, 1), (80, 2), (120, 3)])
def test_one_rank_for_all_is_the_largest_that_fits(budget, rank):
    """Where every module must have the same, the budget is divided by what one rank costs."""
    ranks = within_bytes(budget, value_bytes=2, is_uniform=True)(SPECTRA)
    assert ranks == dict.fromkeys(SPECTRA, rank)


@pytest.mark.parametrize("is_uniform", [False, True])
def test_a_budget_below_rank_one_everywhere_says_what_it_takes(is_uniform):
    """The least that can be asked for is named, with what the budget pays besides."""
    choose = within_bytes(44, value_bytes=2, other_bytes=5, is_uniform=is_uniform)
    with pytest.raises(ValueError, match=r"44 bytes do not pay for rank 1 in all 3 .* takes 45"):
        choose(SPECTRA)


def test_a_flat_adapter_gets_the_largest_rank_that_any_module_needs():
    """Truncating the others would cost energy and save nothing."""
    spectra = {
        "flat": spectrum([1, 1, 1], outputs=4, inputs=5),
        "steep": spectrum([9, 1, 1], outputs=4, inputs=5),
    }
    assert by_energy(0.9)(spectra) == {"flat": 3, "steep": 1}
    assert by_energy(0.9, is_uniform=True)(spectra) == {"flat": 3, "steep": 3}
