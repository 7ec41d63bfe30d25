"""Who is taken for lost, and when."""

import os
import subprocess
import sys

import pytest

from finetune.sequence_parallel.process_state import process_state, this_host
from finetune.sequence_parallel.rank_roll import DONE, Place, RankRoll

PLACES = [Place("a", "alpha", 10), Place("a", "alpha", 11), Place("b", "beta", 12)]


@pytest.fixture
def roll():
    """Rank 0's, which has heard all at 0 seconds; rank 1 is its neighbour, rank 2 far away."""
    made = RankRoll(0, PLACES, patience_seconds=20.0, now=0.0)
    made.hear(["1", "1", "1"], now=0.0)
    return made


def test_neighbours(roll):
    """Ranks of the same machine are seen by the kernel."""
    assert roll.neighbours == [1]


def test_a_neighbour_that_is_gone(roll):
    """It is lost at once, unless it ended as it should."""
    assert "rank 1 of 3 has died (process 11 on alpha" in roll.lost({1: "gone"}, now=1.0)
    roll.hear(["2", DONE, "2"], now=1.0)
    assert roll.lost({1: "gone"}, now=1.0) is None


def test_a_neighbour_that_is_stopped(roll):
    """It is lost after the patience: the user may let it go on."""
    roll.hear(["2", "1", "2"], now=20.0)
    assert roll.lost({1: "stopped"}, now=20.0) is None
    assert "rank 1 of 3 was stopped" in roll.lost({1: "stopped"}, now=21.0)


def test_a_busy_neighbour(roll):
    """It is never lost: this rank beats for it, so that those far away need not doubt it."""
    roll.hear(["2", "1", "2"], now=90.0)
    assert roll.lost({1: "living"}, now=100.0) is None
    assert roll.busy_neighbours({1: "living"}, now=100.0) == [1]
    roll.hear(["2", "1; 9 by rank 0", "2"], now=100.0)
    assert roll.busy_neighbours({1: "living"}, now=101.0) == []


def test_a_rank_far_away(roll):
    """It is lost after twice the patience, for its neighbours may speak for it."""
    assert roll.lost({1: "living"}, now=39.0) is None
    assert "rank 2 of 3 does not answer" in roll.lost({1: "living"}, now=41.0)


def test_who_slept_does_not_judge(roll):
    """A whole job may be suspended and go on: nobody counts the time in between."""
    assert not roll.notice_sleep(now=1.0)
    assert roll.notice_sleep(now=500.0)
    assert roll.lost({1: "stopped"}, now=501.0) is None


def test_who_speaks(roll):
    """The lowest rank that lives speaks for all, or for its machine where the store is lost."""
    last = RankRoll(2, PLACES, patience_seconds=20.0, now=0.0)
    last.hear(["1", "1", "1"], now=0.0)
    assert last.lowest_living({}, now=1.0) == 0
    last.hear(["1", "2", "2"], now=15.0)
    assert last.lowest_living({}, now=25.0) == 1
    assert last.speaks_here({})
    second = RankRoll(1, PLACES, patience_seconds=20.0, now=0.0)
    assert not second.speaks_here({0: "living"})
    assert second.speaks_here({0: "stopped"})


def test_all_done(roll):
    """Who keeps the store waits for every other rank."""
    roll.hear(["5", DONE, "5"], now=1.0)
    assert not roll.others_are_done()
    roll.hear(["5", DONE, DONE], now=1.0)
    assert roll.others_are_done()


def test_states_of_processes():
    """The kernel's view: living, stopped, and gone also while nobody has asked for the exit code."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert process_state(child.pid) == "living"
        os.kill(child.pid, 19)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert process_state(child.pid) == "stopped"
    finally:
        child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_state(child.pid) == "gone"
    child.communicate()
    assert process_state(child.pid) == "gone"
    assert this_host() == this_host()
