"""The cuts of the decomposition hold for every plan; its first points lie where they should."""

import numpy as np
import pytest
from fleet_programs import one_model, random_program

from planner.fleet_program.arrays import arrays_of
from planner.fleet_program.counts_master import CountsMaster
from planner.fleet_program.cuts import Cut, CutPool, RowPrices, cut_at, cut_paying, earnings
from planner.fleet_program.limits import count_rows
from planner.fleet_program.price_search import search_prices
from planner.fleet_program.problem import Rules
from planner.fleet_program.transport import Transport

MOST_ATTEMPTS = 100
SPARE = Rules(survive_one_replica=True)
SPOT = Rules(spot_fraction_limit=0.4)


def _demand(seed, rules):
    """Return a demand every row of which can be served: the first from this seed on."""
    for attempt in range(MOST_ATTEMPTS):
        problem = random_program(seed + 1000 * attempt, models=1, rules=rules, capped=False)
        arrays = arrays_of(problem)
        if not arrays.demands[0].strands_a_row:
            return problem, arrays, arrays.demands[0]
    raise AssertionError(f"no seed of {MOST_ATTEMPTS} after {seed} serves every row")


def _given(cut, counts):
    """Return what counts give to a cut."""
    return float(cut.at_once @ (counts > 0) + cut.each @ counts)


@pytest.mark.parametrize("rules", [Rules(), SPARE, SPOT])
@pytest.mark.parametrize("seed", range(25))
def test_cuts_hold_for_every_plan(seed, rules):
    """Whatever the prices and where the lines touch, counts that carry the load meet the cut."""
    _, _, demand = _demand(seed, rules)
    rng = np.random.default_rng(seed)
    num_rows, num_columns = demand.loads.shape
    transport = Transport(demand, np.ones(num_rows))
    num_plans = 0
    for _ in range(40):
        counts = rng.integers(0, 7, size=num_columns).astype(float)
        if transport.shortage(counts, np.sign(counts)) is not None:
            continue
        num_plans += 1
        serving = rng.exponential(size=num_rows)
        spot = rng.uniform(0, 1, size=num_rows) if rules is SPOT else None
        touching = rng.integers(1, 6, size=num_columns).astype(float)
        cut = cut_at(demand, RowPrices(serving, spot), touching)
        assert _given(cut, counts) >= cut.needed - 1e-9
    assert num_plans or num_columns == 1 or rules is not Rules()


@pytest.mark.parametrize("rules", [Rules(), SPARE, SPOT])
@pytest.mark.parametrize("seed", range(25))
def test_a_shortage_is_cut_off(seed, rules):
    """The cut made of a shortage's prices is missed by the counts that were short."""
    _, _, demand = _demand(seed, rules)
    transport = Transport(demand, np.ones(demand.loads.shape[0]))
    counts = np.zeros(demand.loads.shape[1])
    prices = transport.shortage(counts, counts)
    assert prices is not None
    cut = cut_at(demand, prices, np.maximum(counts, 1.0))
    assert _given(cut, counts) < cut.needed
    pool = CutPool(len(counts))
    pool.add(cut)
    short = pool.most_violated(counts)
    assert short is not None
    assert short.needed == pytest.approx(1.0)


def test_a_row_worth_next_to_nothing_is_not_taken_for_served():
    """What a row left out is worth does not decide whether it is short."""
    problem = one_model([1.0, 1.0], [(1.0, [1.0, 0.0]), (1.0, [0.0, 1.0])])
    transport = Transport(arrays_of(problem).demands[0], np.array([1.0, 1e-12]))
    counts = np.array([1.0, 0.0])
    assert transport.shortage(counts, counts) is not None
    assert transport.shortage(np.ones(2), np.ones(2)) is None


@pytest.mark.parametrize("rules", [Rules(), SPARE])
@pytest.mark.parametrize("seed", range(25))
def test_the_price_search_gives_cuts_that_hold_and_a_point_inside(seed, rules):
    """Profits bound what any count earns, and the averaged counts carry the demand."""
    problem, arrays, demand = _demand(seed, rules)
    (guess,) = search_prices(arrays, count_rows(problem), arrays.demands)
    transport = Transport(demand, np.ones(demand.loads.shape[0]))
    assert transport.shortage(*guess.inner) is None
    for offered in guess.offered:
        prices = RowPrices(offered.serving)
        cut = cut_paying(demand, prices, offered.paid, offered.profit)
        for count in range(1, 12):
            counts = np.full(len(offered.paid), float(count))
            (earned,) = earnings(demand, prices, (demand.capacity(counts, np.sign(counts)),))
            assert np.all(cut.at_once + cut.each * count >= earned - 1e-9)


def test_dropping_small_coefficients_never_sharpens_a_cut():
    """A coefficient too small for the solver is given away in full."""
    problem, arrays, demand = _demand(3, Rules())
    master = CountsMaster(arrays, count_rows(problem))
    least = master.relax().bound_usd_per_hour
    nothing = np.zeros(len(demand.columns))
    master.add(0, Cut(nothing, nothing + 1e-12, 1e-3))
    assert master.relax().bound_usd_per_hour == float("inf")
    master = CountsMaster(arrays, count_rows(problem))
    sharp = np.where(np.arange(len(nothing)) == 0, 1.0, 1e-10)
    master.add(0, Cut(nothing, sharp, 1.0))
    assert master.relax().bound_usd_per_hour == pytest.approx(
        least + arrays.prices[demand.columns[0]], rel=1e-6
    )
