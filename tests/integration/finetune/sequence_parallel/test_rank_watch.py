"""Worlds of four processes of which one is killed, stopped, fails or is merely busy."""

import json
import signal
import time
from contextlib import ExitStack

import pytest
from rank_processes import start_ranks

from finetune.sequence_parallel.rank_watch import LOST_EXIT_CODE

WORLD_SIZE = 4
ADVICE = "start the job again with the same command"


@pytest.fixture
def start(tmp_path):
    """Start a world that works as wished; whatever is left of it ends with the test."""
    with ExitStack() as stack:

        def start_world(**wish):
            wish = {"patience_seconds": 3.0} | wish
            words = [json.dumps(wish)]
            return start_ranks(
                stack, "watched_rank.py", tmp_path, world_size=WORLD_SIZE, words=words
            )

        yield start_world


def messages(ranks):
    """Return what all ranks said, their signs of work apart."""
    lines = [line for rank in ranks for line in rank.output.splitlines()]
    return [line for line in lines if line not in ("working", "ended")]


def wait_until_working(ranks):
    """Wait until all take part in collectives."""
    for rank in ranks:
        rank.wait_for("working", until=time.monotonic() + 60)


@pytest.mark.parametrize(
    ("lost", "sent", "apart"),
    [
        (2, signal.SIGKILL, False),
        pytest.param(0, signal.SIGKILL, False, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGSTOP, False, marks=pytest.mark.slow),
        (0, signal.SIGSTOP, True),
        pytest.param(2, signal.SIGKILL, True, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGKILL, True, marks=pytest.mark.slow),
        pytest.param(2, signal.SIGSTOP, True, marks=pytest.mark.slow),
        pytest.param(0, signal.SIGSTOP, False, marks=pytest.mark.slow),
    ],
)
def test_lost_rank(start, lost, sent, apart):
    """All others end with one code within a minute, and one line says who was lost."""
    ranks = start(apart=apart)
    wait_until_working(ranks)
    ranks[lost].send(sent)
    until = time.monotonic() + 60
    others = [rank for number, rank in enumerate(ranks) if number != lost]
    assert {rank.wait(until=until) for rank in others} == {LOST_EXIT_CODE}
    said = messages(others)
    # Without a store, each machine says it.
    assert len(said) == (3 if lost == 0 and apart else 1), said
    assert all(f"rank {lost}" in line and ADVICE in line for line in said)


@pytest.mark.parametrize("failing", [[2], [0, 1, 2, 3]])
def test_failing_rank(start, failing):
    """A rank's own error is told once, and stops the others in silence."""
    ranks = start(failing=failing)
    until = time.monotonic() + 60
    codes = [rank.wait(until=until) for rank in ranks]
    said = messages(ranks)
    assert len(said) == 1, said
    assert "has no sequences" in said[0]
    assert all(codes)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [False, True])
def test_busy_rank(start, apart):
    """A rank that holds the interpreter beyond the patience is not lost."""
    ranks = start(
        patience_seconds=6.0 if apart else 3.0,
        holding=1,
        holding_seconds=8 if apart else 10,
        run_seconds=2,
        apart=apart,
        late_seconds=0.5,
    )
    until = time.monotonic() + 90
    assert [rank.wait(until=until) for rank in ranks] == [0, 0, 0, 0], messages(ranks)
    assert messages(ranks) == []
