"""What the processes of a local run say: their rank, the times of their groups, why they ended."""

import io

import pytest

from finetune.local_runs.cli import _is_first
from finetune.local_runs.launch import reason_of
from finetune.local_runs.training_loop import measured_groups
from planner.training.training_plan import BatchPlan, MicroBatch, SequenceGroup

MEETING = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def group(*ranks, sequences):
    """Return a group of a plan."""
    return SequenceGroup(ranks=ranks, sequences=sequences, predicted_seconds=1.0)


def test_a_group_took_what_its_last_member_took():
    """Rank 0 waits three seconds for rank 1, which had more to do before; they are no cost."""
    plan = BatchPlan(
        lengths=(10, 1000, 400),
        micro_batches=(
            MicroBatch(groups=(group(0, sequences=(0,)), group(1, sequences=(1,)))),
            MicroBatch(groups=(group(0, 1, sequences=(2,)),)),
        ),
        predicted_seconds=2.0,
        lower_bound_seconds=1.0,
        solver="heuristic",
        planning_seconds=0.0,
        static=None,
        homogeneous=None,
    )
    rows = [range(length) for length in plan.lengths]
    found = measured_groups(plan, rows, [[0.5, 3.25], [3.5, 0.25], [None, None]])
    assert [measured.seconds for measured in found] == [0.5, 3.5, 0.25]
    assert [measured.lengths for measured in found] == [(10,), (1000,), (400,)]


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"RANK": "0", "WORLD_SIZE": "2", **MEETING}, True),
        ({"RANK": "1", "WORLD_SIZE": "2", **MEETING}, False),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", **MEETING}, False),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", **MEETING}, True),
    ],
    ids=["alone", "torchrun-0", "torchrun-1", "mpirun-1", "mpirun-0"],
)
def test_one_rank_speaks_for_all(environment, is_first):
    """Under every launcher rank 0 alone shows progress and the result."""
    assert _is_first(environment) is is_first


def test_a_traceback_that_nobody_saw_is_shown(capsys):
    """It goes to standard error before the line that asks for it."""
    words = io.BytesIO(b"Traceback (most recent call last):\n  File ...\nKeyError: 'x'\n")
    assert reason_of(words) == "a process failed: KeyError: 'x'; report it with its traceback"
    assert "File ..." in capsys.readouterr().err


def test_a_message_is_taken_without_what_stands_before_it(capsys):
    """Log lines of other processes are not shown."""
    words = io.BytesIO(b"a warning\nmotley: error: data: none is left; add documents\n")
    assert reason_of(words) == "data: none is left; add documents"
    assert reason_of(io.BytesIO(b"")) is None
    assert capsys.readouterr().err == ""
