import numpy as np
import pytest
import torch

from serving.tiny.batches import Batches
from serving.tiny.recipe import Schedule

STREAM = np.arange(1000, dtype=np.uint16)
SCHEDULE = Schedule(num_steps=40, tokens_per_step=64, sequence_tokens=16, long_fraction=0.25)


def test_a_step_decides_its_batch() -> None:
    """Batches asked for in any order, from any instance, are the same."""
    forward, backward = Batches(STREAM, seed=3), Batches(STREAM, seed=3)
    steps = range(SCHEDULE.num_steps)
    ahead = [forward.at(step, SCHEDULE, long_tokens=32) for step in steps]
    behind = [backward.at(step, SCHEDULE, long_tokens=32) for step in reversed(steps)]
    for one, other in zip(ahead, reversed(behind), strict=True):
        assert torch.equal(one, other)


def test_seeds_shuffle_differently() -> None:
    """Another seed gives another order."""
    one, other = Batches(STREAM, seed=3), Batches(STREAM, seed=4)
    assert not torch.equal(
        one.at(0, SCHEDULE, long_tokens=32), other.at(0, SCHEDULE, long_tokens=32)
    )


def test_an_epoch_covers_the_stream_once() -> None:
    """The windows of one epoch do not overlap and leave out less than two windows at the ends."""
    batches = Batches(STREAM, seed=3)
    windows_in_epoch = (len(STREAM) - 16 - 1) // 16
    rows = torch.cat([batches.at(step, SCHEDULE, long_tokens=32) for step in range(17)])
    inputs = rows[:windows_in_epoch, :-1].flatten().tolist()
    assert len(set(inputs)) == len(inputs) == windows_in_epoch * 16
    assert len(inputs) > len(STREAM) - 3 * 16


def test_rows_are_runs_of_the_stream() -> None:
    """Each row is consecutive text, one token longer than its length, so that it holds its targets."""
    rows = Batches(STREAM, seed=3).at(5, SCHEDULE, long_tokens=32)
    assert rows.shape == (4, 17)
    assert torch.equal(rows[:, 1:], rows[:, :-1] + 1)


@pytest.mark.parametrize(("step", "shape"), [(29, (4, 17)), (30, (2, 33))])
def test_last_steps_use_long_sequences(step: int, shape: tuple[int, int]) -> None:
    """The long part starts where the schedule says, with the same tokens a step."""
    rows = Batches(STREAM, seed=3).at(step, SCHEDULE, long_tokens=32)
    assert rows.shape == shape
