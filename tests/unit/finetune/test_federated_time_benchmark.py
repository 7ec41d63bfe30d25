"""What the benchmark of virtual time computes from its runs, and that it goes on where it was."""

import math

import numpy as np
import pytest
from benchmarks.federated_time import rounded, row_of
from benchmarks.federated_time_runs import Curve, Runs, StaleMerge, Watch

from finetune.scheduling.decisions import Aggregation, Contribution


def curve(*means, slowest=None):
    """Return a curve of two clients at 0, 10, 20... seconds; the second is the slow one."""
    rows = [[2 * mean - other, other] for mean, other in zip(means, slowest or means, strict=True)]
    return Curve([10.0 * n for n in range(len(means))], rows, {"seconds_per_step": [0.1, 0.8]})


def test_a_target_is_reached_between_two_points():
    """From 3 at 10 s to 2 at 20 s, 2.5 is reached at 15 s."""
    assert curve(4, 3, 2).seconds_to(2.5) == pytest.approx(15)


def test_a_target_counts_when_it_is_first_reached():
    """The loss falls, rises and falls again: the first time is taken."""
    assert curve(4, 2, 3, 1).seconds_to(2) == pytest.approx(10)


def test_a_target_that_is_missed_has_no_time():
    """The loss never falls so low."""
    assert curve(4, 3, 2).seconds_to(1.9) is None


def test_an_arm_is_measured_against_the_baseline_of_the_same_federation():
    """Half the time to 95 % of its fall, the same fall, and the slow client's."""
    row = row_of([curve(3, 1, 1, slowest=[3, 2, 1.5])], [curve(3, 2, 1)])
    assert row["of_baseline"] == pytest.approx(9.5 / 19)
    assert row["final_fraction"] == pytest.approx(1)
    assert row["slowest_fraction"] == pytest.approx(0.75)
    assert row["num_missed"] == 0


def test_a_missed_target_is_endless_and_counted():
    """Two of three federations are missed: so is the median."""
    short, whole = curve(3, 2, 2), curve(3, 2, 1)
    row = row_of([short, short, whole], [whole] * 3)
    assert row["of_baseline"] == math.inf
    assert row["num_missed"] == 2


def test_a_finished_run_is_not_made_again(tmp_path):
    """A second process reads the run; another question makes another one."""
    made = []

    def make():
        made.append(1)
        return curve(2, 1)

    assert Runs(tmp_path).get({"steps": 5}, make) == Runs(tmp_path).get({"steps": 5}, make)
    Runs(tmp_path).get({"steps": 10}, make)
    assert len(made) == 2


def test_an_interrupted_run_leaves_nothing(tmp_path):
    """A run that fails is made again."""

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Runs(tmp_path).get({}, fail)
    assert Runs(tmp_path).get({}, lambda: curve(2, 1)).means == [2, 1]


def test_the_adapter_is_judged_as_it_was_before_the_event_that_passes_the_time():
    """A version made at 15 s is not what there was at 10 s."""
    first, second = {"w": np.zeros(1, np.float32)}, {"w": np.ones(1, np.float32)}
    watch = Watch(lambda tensors: [float(tensors["w"][0])], first, [10.0, 20.0])
    watch.see(15.0, second)
    watch.end()
    assert watch.seconds == [0, 10, 20]
    assert watch.losses == [[0], [0], [1]]


def test_absent_clients_changes_are_remembered():
    """One of two equal clients answers in each round: the other's last change counts half as much."""
    merge = StaleMerge({"a": 1, "b": 1}, beta=0.5)
    tensors = {"w": np.zeros(1, np.float32)}
    for version, client in enumerate("ab", start=1):
        contribution = Contribution(version, client, version - 1, 1.0)
        change = {"w": np.ones(1, np.float32)}
        tensors = merge(tensors, Aggregation("", version, (contribution,)), [change])
    assert tensors["w"] == pytest.approx(1 + 1 + 0.25)


def test_endless_figures_become_null():
    """JSON knows no infinity; other numbers keep six digits."""
    assert rounded({"a": [math.inf, 1 / 3], "b": "x"}) == {"a": [None, 0.333333], "b": "x"}
