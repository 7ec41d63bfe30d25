"""The predicted step of a pipeline against one played event by event, and both against hand counts."""

import random

import pytest

from planner.placing.makespan import cycle_seconds, least_seconds, step_seconds
from planner.placing.pipeline import Boundary, Pipeline
from planner.placing.pipeline_simulator import simulate_step


def pipeline(
    micro_batches: int, forward: list[float], backward: list[float], *, boundary: float = 0.0
) -> Pipeline:
    """Return a pipeline with equal boundaries and no gradients to exchange."""
    return Pipeline(
        num_micro_batches=micro_batches,
        forward_seconds=tuple(forward),
        backward_seconds=tuple(backward),
        boundaries=(Boundary(boundary),) * (len(forward) - 1),
        gradient_seconds=(0.0,) * len(forward),
    )


@pytest.mark.parametrize("seconds", [step_seconds, simulate_step])
def test_even_stages_take_the_textbook_time(seconds) -> None:
    """(m + p - 1) (forward + backward): the bubble of (p - 1) / (m + p - 1)."""
    assert seconds(pipeline(8, [1.0] * 4, [2.0] * 4)) == pytest.approx((8 + 4 - 1) * 3)


@pytest.mark.parametrize("seconds", [step_seconds, simulate_step])
def test_two_stages_by_hand(seconds) -> None:
    """Two micro-batches, transfers of half a second: forwards at 1, 2.5, backwards at 4.5, 9, 11.

    Stage 0: F0 0-1, F1 1-2, B0 5-7, B1 8.5-10.5. Stage 1: F0 1.5-2.5, B0 2.5-4.5, F1 4.5-5.5,
    B1 5.5-7.5, back at 8.
    """
    assert seconds(pipeline(2, [1.0, 1.0], [2.0, 2.0], boundary=0.5)) == pytest.approx(10.0)


@pytest.mark.parametrize("seconds", [step_seconds, simulate_step])
def test_one_stage_does_all_its_work_then_its_gradients(seconds) -> None:
    """Nothing waits for anything."""
    alone = Pipeline(3, (1.0,), (2.0,), (), (0.5,))
    assert seconds(alone) == pytest.approx(9.5)


@pytest.mark.parametrize("seconds", [step_seconds, simulate_step])
def test_a_tied_table_is_exchanged_after_both_ends(seconds) -> None:
    """The middle stage's long all-reduce hides it only as far as it goes."""
    stages = Pipeline(
        1, (1.0,) * 3, (1.0,) * 3, (Boundary(0.0),) * 2, (0.0, 2.5, 0.0), table_seconds=4.0
    )
    assert seconds(stages) == pytest.approx(6 + 4)


def test_prediction_agrees_with_the_play_on_random_pipelines() -> None:
    """Uneven stages, slow and distant boundaries, few and many micro-batches: within 5 %."""
    chance = random.Random(8)
    for _ in range(400):
        stages = random_pipeline(chance)
        assert step_seconds(stages) == pytest.approx(simulate_step(stages), rel=0.05)


def test_short_runs_are_predicted_exactly() -> None:
    """Until the pace is taken as settled every micro-batch is followed."""
    chance = random.Random(9)
    for _ in range(200):
        stages = random_pipeline(chance, most_micro_batches=12)
        assert step_seconds(stages) == pytest.approx(simulate_step(stages), rel=1e-9)


def test_no_play_beats_the_bound() -> None:
    """What prunes the search is a lower bound of the step."""
    chance = random.Random(10)
    for _ in range(200):
        stages = random_pipeline(chance, most_micro_batches=60)
        assert least_seconds(stages) <= simulate_step(stages) * (1 + 1e-9)


def test_a_slow_boundary_sets_the_pace_of_the_two_stages_at_it() -> None:
    """Two stages of 3 s with 5 s between them pass on one micro-batch in (3 + 3 + 10) / 2 s."""
    slow = pipeline(50, [1.0, 1.0], [2.0, 2.0], boundary=5.0)
    assert cycle_seconds(slow) == pytest.approx(8.0)
    longer = pipeline(90, [1.0, 1.0], [2.0, 2.0], boundary=5.0)
    added = simulate_step(longer) - simulate_step(slow)
    assert added == pytest.approx(40 * 8.0)


def random_pipeline(chance: random.Random, *, most_micro_batches: int = 300) -> Pipeline:
    """Return stages of mixed speeds, some boundaries far slower than any stage."""
    num_stages = chance.randint(1, 12)
    forward = [chance.choice([1.0, chance.uniform(0.2, 3)]) for _ in range(num_stages)]
    boundaries = [
        Boundary(
            chance.choice([0.0, 0.01, chance.uniform(0, 1), chance.uniform(0, 10)]),
            chance.choice([0.0, chance.uniform(0, 2)]),
        )
        for _ in range(num_stages - 1)
    ]
    return Pipeline(
        num_micro_batches=chance.choice([1, 2, chance.randint(1, most_micro_batches)]),
        forward_seconds=tuple(forward),
        backward_seconds=tuple(
            each * chance.choice([2.0, chance.uniform(0.5, 3)]) for each in forward
        ),
        boundaries=tuple(boundaries),
        gradient_seconds=tuple(chance.uniform(0, 20) for _ in range(num_stages)),
        table_seconds=chance.choice([0.0, 5.0]),
    )
