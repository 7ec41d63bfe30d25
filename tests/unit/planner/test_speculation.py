"""Whether to draft, where and how much."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.drafting.candidate import DraftPlace, Load, Overlap
from planner.drafting.cost_curve import CostCurve
from planner.drafting.draft_tree import chain_acceptance
from planner.speculation import plan_speculation

GIB = 2**30
FREE_DRAFT = CostCurve((1, 1024), (1e-12, 1e-12))
FLAT = CostCurve((1, 32), (1.0, 1.0))
HOSTILE = CostCurve((1, 32), (1.0, 32.0))
TREE = [(0.6, 0.15, 0.06)] * 5


def _place(device="cuda:0", free=6 * GIB, needed=2.7 * GIB, step=FREE_DRAFT, **changes):
    place = DraftPlace(device, free, needed, step)
    return replace(place, **changes)


def _acceptance_for(tokens, nodes):
    """Return the one acceptance of a chain of so many nodes that emits so many tokens a round."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if sum(middle**i for i in range(nodes + 1)) < tokens else (low, middle)
        )
    return chain_acceptance([low] * nodes)


@pytest.mark.parametrize(("verify", "speed_up"), [(5.6, 0.714), (2.2, 1.818)])
def test_the_worked_figures_of_sixteen_rows(verify, speed_up):
    """Emitting 4 tokens a round at 16 rows loses at 5.6 single rows and gains at 2.2."""
    target = CostCurve((1, 16), (1.0, verify))
    plan = plan_speculation(target, [_place()], _acceptance_for(4, 15))
    (sixteen,) = [candidate for candidate in plan.candidates if candidate.rows == 16]
    assert sixteen.tokens_per_round == pytest.approx(4)
    assert sixteen.speed_up == pytest.approx(speed_up, abs=1e-3)


def test_a_part_of_the_rounds_costs_that_part_of_what_drafting_adds():
    """Where one request in four has a draft, three quarters of its rows are never verified."""
    target = CostCurve((1, 4), (1.0, 2.0))
    load = Load(drafted_fraction=0.25)
    plan = plan_speculation(target, [_place()], chain_acceptance([0.25, 1.0, 1.0]), load=load)
    assert plan.chosen.rows == 4
    assert plan.chosen.tokens_per_round == pytest.approx(1.75)
    assert plan.chosen.speed_up == pytest.approx(1.75 / 1.25)
    with pytest.raises(ValueError, match=r"drafted_fraction is 1\.5"):
        Load(drafted_fraction=1.5)


def test_a_hostile_curve_turns_speculation_off_and_says_why():
    """Where every row costs a row, no tree pays; the numbers are in the reason."""
    plan = plan_speculation(HOSTILE, [_place()], chain_acceptance([0.41] * 4))
    assert plan.chosen == plan.without
    assert (plan.chosen.device, plan.chosen.rows, plan.chosen.speed_up) == (None, 1, 1.0)
    assert plan.runner_up is not None
    assert plan.runner_up.rows == 2
    assert plan.reasons == (
        "cuda:0 could hold the draft: 2.7 of 6.0 GiB free",
        "no chain pays: verifying 2 rows costs 2.00 single rows, drafting them 0.00, and 1.41 "
        "tokens are emitted: the best gives 0.70x",
    )


def test_a_flat_curve_takes_the_whole_tree():
    """Where rows cost nothing the tree grows to the end of the curve, and says what bounds it."""
    plan = plan_speculation(FLAT, [_place()], TREE)
    assert (plan.chosen.device, plan.chosen.rows) == ("cuda:0", 32)
    assert plan.chosen.top_k > 1
    assert plan.reasons[0] == "cuda:0 holds the draft: 2.7 of 6.0 GiB free"
    assert "known to 32 rows, which bounds 1 request to 32 each" in plan.reasons[1]
    assert "tree of top-" in plan.reasons[2]


def test_a_draft_too_large_for_the_gpu_goes_to_the_cpu():
    """The reason gives what is needed and what is free."""
    places = [_place(free=2 * GIB), _place("cpu", step=CostCurve((1, 32), (0.01, 0.02)))]
    plan = plan_speculation(FLAT, places, TREE)
    assert plan.chosen.device == "cpu"
    assert plan.reasons[:2] == (
        "cuda:0 cannot hold the draft: 2.7 GiB needed, 2.0 GiB free",
        "cpu holds the draft: 2.7 of 6.0 GiB free",
    )


def test_no_room_anywhere_is_no_speculation():
    """With nothing to compare there is no runner-up."""
    plan = plan_speculation(FLAT, [_place(free=0)], TREE)
    assert plan.chosen.device is None
    assert plan.runner_up is None
    assert "no speculation" in plan.reasons[-1]


def test_the_cheaper_of_two_devices_drafts():
    """Copies count: a fast device behind a slow link loses to the target's own."""
    own = _place("cpu", step=CostCurve((1, 32), (0.05, 0.05)))
    near, far = (_place(round_seconds=seconds) for seconds in (0.01, 2.0))
    assert plan_speculation(FLAT, [near, own], TREE).chosen.device == "cuda:0"
    assert plan_speculation(FLAT, [far, own], TREE).chosen.device == "cpu"


curves = st.tuples(st.floats(0.05, 5), st.lists(st.floats(0, 5), min_size=5, max_size=5)).map(
    lambda drawn: CostCurve(
        (1, 2, 4, 8, 16, 32),
        tuple(drawn[0] + sum(drawn[1][:i]) for i in range(6)),
    )
)


@given(curves, st.floats(0, 1), st.floats(0.001, 0.5))
def test_cheaper_verification_is_never_worth_less(curve, share, draft_seconds):
    """With c(1) fixed and every further row cheaper, the choice gains at least as much."""
    single = curve.seconds[0]
    cheaper = CostCurve(curve.rows, tuple(single + share * (s - single) for s in curve.seconds))
    place = _place(step=CostCurve((1, 32), (draft_seconds, draft_seconds)))
    dear = plan_speculation(curve, [place], TREE).chosen.speed_up
    assert dear >= 1
    assert plan_speculation(cheaper, [place], TREE).chosen.speed_up >= dear - 1e-9


@given(st.floats(0.01, 3), st.floats(0.0, 0.1), st.floats(1, 40))
def test_the_tree_shrinks_as_others_fill_the_step(per_row, draft_seconds, fixed):
    """On a curve of a fixed part and a part a row, more rows of others never lengthen the tree."""
    target = CostCurve((1, 256), (fixed + per_row, fixed + 256 * per_row))
    place = _place(step=CostCurve((1, 256), (1e-9 + draft_seconds,) * 2))
    rows = [
        plan_speculation(target, [place], chain_acceptance([0.7] * 12), load=Load(1, other)).chosen
        for other in (0, 4, 16, 64, 200)
    ]
    sizes = [chosen.rows for chosen in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_requests_that_draft_alike_share_the_rows():
    """On a curve flat to 8 rows, 1 request drafts to its edge and 8 requests do not draft."""
    target = CostCurve((1, 8, 64), (1.0, 1.0, 8.0))
    sizes = [
        plan_speculation(target, [_place()], TREE, load=Load(n)).chosen.rows for n in (1, 2, 4, 8)
    ]
    assert sizes == [8, 4, 2, 1]


def test_under_load_a_tree_pays_where_it_beats_the_rate_of_the_step():
    """Extra tokens over extra seconds against tokens over seconds decide, as they do by hand."""
    load = Load(1, 7)
    for extra_seconds, pays in ((0.099, True), (0.101, False)):
        # Eight tokens in one second; a second row emits 0.8 more: worth 0.1 seconds.
        target = CostCurve((1, 8, 9), (0.5, 1.0, 1.0 + extra_seconds))
        plan = plan_speculation(target, [_place()], [(0.8,)], load=load)
        assert (plan.chosen.rows == 2) == pays
        assert "1 request beside 7 other rows" in plan.reasons[-1]


def test_pre_drafting_hides_the_draft_where_the_device_is_apart():
    """A guess that always holds costs the longer of both; on shared cores nothing hides."""
    step = CostCurve((1, 32), (0.5, 0.5))
    for is_apart, ready, seconds in ((True, 1.0, 1.0), (True, 0.5, 1.25), (False, 1.0, 1.5)):
        place = _place(step=step, is_apart=is_apart)
        plan = plan_speculation(FLAT, [place], [(0.9,)], overlap=Overlap(ready_fraction=ready))
        assert plan.chosen.round_seconds == pytest.approx(seconds)
        assert any("hides" in reason for reason in plan.reasons) == is_apart


def test_half_batches_are_taken_only_where_they_pay():
    """Two halves verify twice: a gain where half the rows cost half, none on a flat curve."""
    place = _place(step=CostCurve((1, 32), (1.0, 1.0)), is_apart=True)
    both = Overlap(half_batches=True)
    steep = CostCurve((1, 2, 4, 32), (0.5, 1.0, 2.0, 16.0))
    paired, alone = (
        next(
            c
            for c in plan_speculation(
                curve, [place], [(1.0,)], load=Load(2), overlap=both
            ).candidates
            if c.rows == 2
        )
        for curve in (steep, FLAT)
    )
    assert paired.round_seconds == pytest.approx(2 * max(1.0, 1.0))
    assert paired.verify_seconds + paired.draft_seconds == pytest.approx(3.0)
    assert alone.round_seconds == pytest.approx(2.0)
    assert alone.verify_seconds + alone.draft_seconds == pytest.approx(2.0)


def test_a_gain_within_the_noise_is_no_gain():
    """`min_speed_up` keeps speculation off until it is clearly faster, and the reason names it."""
    target = CostCurve((1, 2), (1.0, 1.5))
    assert plan_speculation(target, [_place()], [(0.52,)]).chosen.rows == 2
    plan = plan_speculation(target, [_place()], [(0.52,)], min_speed_up=1.05)
    assert plan.chosen.device is None
    assert "1.01x, not above 1.05x" in plan.reasons[-1]


def test_a_curve_that_ends_too_early_is_told_from_one_that_leaves_no_row():
    """Plain decoding must be on the curve; drafts that are not are simply not compared."""
    plan = plan_speculation(FLAT, [_place()], TREE, load=Load(32))
    assert plan.chosen.device is None
    assert "32 requests to 1 each" in plan.reasons[1]
    with pytest.raises(ValueError, match="33 rows are outside the curve of 1 to 32"):
        plan_speculation(FLAT, [_place()], TREE, load=Load(33))


def test_lines_join_the_points_of_a_curve():
    """Between points the cost is a straight line; outside it is refused with the numbers."""
    curve = CostCurve((1, 2, 4, 8), (1.0, 1.2, 2.0, 1.0))
    assert [curve.seconds_at(rows) for rows in (1, 3, 4, 6)] == pytest.approx([1.0, 1.6, 2.0, 1.5])
    for rows in (0, -1, 9):
        with pytest.raises(ValueError, match=f"{rows} rows are outside the curve of 1 to 8"):
            curve.seconds_at(rows)


@pytest.mark.parametrize(
    ("rows", "seconds", "words"),
    [
        ((), (), "0 row counts"),
        ((1, 2), (1.0,), "2 row counts and 1 times"),
        ((2, 4), (1.0, 2.0), "rise from 1"),
        ((1, 4, 2), (1.0, 2.0, 3.0), "rise from 1"),
        ((1, 1), (1.0, 1.0), "rise from 1"),
        ((1, 2), (1.0, float("nan")), "time of 2 rows is nan"),
        ((1, 2), (1.0, float("inf")), "inf"),
        ((1, 2), (0.0, 1.0), "time of 1 rows is 0.0"),
        ((1, 2), (1.0, -1.0), "-1.0"),
    ],
)
def test_what_is_no_curve_is_refused(rows, seconds, words):
    """Unsorted rows, NaN, infinite, zero and negative times name themselves."""
    with pytest.raises(ValueError, match=words):
        CostCurve(rows, seconds)


@pytest.mark.parametrize(
    "build",
    [
        lambda: _place(free=-1.0),
        lambda: _place(needed=float("nan")),
        lambda: _place(round_seconds=-0.1),
        lambda: Load(0),
        lambda: Load(1, -1),
        lambda: Overlap(ready_fraction=1.5),
        lambda: Overlap(ready_fraction=float("nan")),
        lambda: plan_speculation(FLAT, [], TREE, min_speed_up=0.9),
        lambda: plan_speculation(FLAT, [], TREE, min_speed_up=float("nan")),
    ],
)
def test_impossible_settings_are_refused(build):
    """Each is a caller's mistake, told when it is made."""
    with pytest.raises(ValueError, match="give"):
        build()
