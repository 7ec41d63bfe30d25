"""Costs of rounds: from a few measured ones to the curves of any load."""

import pytest
import torch
from toy_model import TableModel, random_table

from serving.engine.drafting_policy import DraftSize
from serving.engine.model_drafter import ChainDrafter
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.round_calibration import calibrate
from serving.engine.round_costs import MeasuredRound, RoundCosts


def measured(num_sequences: int, num_drafts: int, verify: float, draft: float = 0.0):
    return MeasuredRound(num_sequences, num_drafts, num_drafts, verify, draft)


COSTS = RoundCosts(
    (
        measured(1, 0, 10.0),
        measured(1, 2, 14.0, draft=5.0),
        measured(1, 4, 18.0, draft=9.0),
        measured(4, 0, 20.0),
        measured(4, 2, 40.0, draft=7.0),
        measured(4, 4, 60.0, draft=13.0),
    )
)


def test_a_measured_load_has_its_own_curve():
    """Rows are those of all its sequences; behind the last the curve rises on."""
    curve = COSTS.target_curve(4, most_rows=30)
    assert [curve.seconds_at(rows) for rows in (1, 4, 12, 20)] == [10.0, 20.0, 40.0, 60.0]
    assert curve.seconds_at(30) == pytest.approx(60 + 10 * 40 / 16)


def test_a_load_between_two_measured_ones_is_between_them():
    """Three sequences cost two thirds of the way from one to four."""
    curve = COSTS.target_curve(3, most_rows=15)
    assert curve.seconds_at(3) == pytest.approx(10 + 10 * 2 / 3)
    assert curve.seconds_at(15) == pytest.approx(18 + 42 * 2 / 3)


def test_more_sequences_than_measured_have_the_rows_of_the_most():
    """Forty rows of eight sequences stand where forty rows of four would."""
    assert COSTS.target_curve(8, most_rows=40) == COSTS.target_curve(4, most_rows=40)


def test_drafting_costs_a_part_a_round_and_a_part_a_depth():
    """Both come from the line through what was measured."""
    place = COSTS.draft_place(4, device="cpu")
    assert place.round_seconds == pytest.approx(1.0)
    assert place.step_seconds.seconds_at(4) == pytest.approx(3.0)
    assert place.fits


def test_a_line_never_falls_and_starts_at_nothing_or_more():
    """Noise gives no negative cost, whichever part it hits."""
    steep = RoundCosts((measured(1, 0, 1), measured(1, 1, 1, 1.0), measured(1, 2, 1, 4.0)))
    place = steep.draft_place(1, device="cpu")
    assert place.round_seconds == 0
    assert place.step_seconds.seconds_at(1) == pytest.approx(9 / 5)
    falling = RoundCosts((measured(1, 0, 1), measured(1, 1, 1, 3.0), measured(1, 2, 1, 1.0)))
    place = falling.draft_place(1, device="cpu")
    assert place.round_seconds == pytest.approx(2.0)


def test_noise_never_makes_more_rows_cheaper():
    """Neighbours out of order share their mean."""
    costs = RoundCosts((measured(1, 0, 3.0), measured(1, 1, 1.0, 1.0), measured(1, 3, 5.0, 1.0)))
    curve = costs.target_curve(1, most_rows=4)
    assert [curve.seconds_at(rows) for rows in (1, 2, 4)] == [2.0, 2.0, 5.0]


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        ((measured(1, 2, 1.0),), "no plain and no drafted round"),
        ((measured(1, 0, 1.0), measured(1, 2, 1.0), measured(2, 0, 1.0)), "use the same"),
    ],
)
def test_rounds_that_make_no_curve_are_refused(rounds, message):
    """One line says what to measure."""
    with pytest.raises(ValueError, match=message):
        RoundCosts(rounds)


class Ticking(TableModel):
    """A model whose forward takes a set time on a clock of the test."""

    now = 0.0

    def __init__(self, logits: torch.Tensor, *, seconds: float, per_row: float) -> None:
        super().__init__(logits)
        self._seconds, self._per_row = seconds, per_row

    def forward(self, batch):
        rows = sum(len(part.tokens) for part in batch)
        Ticking.now += self._seconds + self._per_row * rows
        return super().forward(batch)


def ticking_costs(*, most_seconds: float = 1e6, max_sequences: int = 4, kv_bytes: int = 1 << 20):
    Ticking.now = 0.0
    table = random_table(6, seed=1)
    return calibrate(
        Ticking(table, seconds=10.0, per_row=1.0),
        ChainDrafter(Ticking(table, seconds=2.0, per_row=0.0)),
        most=DraftSize(6, 6),
        max_sequences=max_sequences,
        kv_bytes=kv_bytes,
        most_seconds=most_seconds,
        clock=lambda: Ticking.now,
    )


def test_calibration_finds_what_rounds_cost():
    """On a clock that only the models move, the curves are the models' own."""
    costs = ticking_costs()
    assert {r.num_sequences for r in costs.rounds} == {1, 2, 4}
    for rounds in costs.rounds:
        rows = rounds.num_sequences * (rounds.num_drafts + 1)
        assert rounds.verify_seconds == pytest.approx(10 + rows)
        assert rounds.draft_seconds == pytest.approx(2 * rounds.depth)


def test_calibration_stops_in_time_and_always_knows_one_sequence():
    """Where time is short only one sequence is measured, once; where memory is, fewer."""
    assert {r.num_sequences for r in ticking_costs(most_seconds=1.0).rounds} == {1}
    assert {r.num_sequences for r in ticking_costs(kv_bytes=64 * 9).rounds} == {1, 2}


def test_calibration_verifies_full_size_where_the_drafter_finds_nothing():
    """A look-up that has no guess is charged for the rows it would ask for."""
    Ticking.now = 0.0
    costs = calibrate(
        Ticking(random_table(6, seed=1), seconds=10.0, per_row=1.0),
        NgramDrafter(),
        most=DraftSize(3, 3),
        max_sequences=1,
        kv_bytes=1 << 20,
        most_seconds=500.0,
        clock=lambda: Ticking.now,
    )
    assert [r.verify_seconds for r in costs.rounds] == [11.0, 12.0, 13.0, 14.0]
