"""Costs fitted to measured groups."""

import io
import json
from datetime import date

import numpy as np
import pytest
from rich.console import Console
from training_fleets import cluster, costs, island

from planner.errors import DocumentError
from planner.training.calibration import GroupMeasurement, calibrate, read_measurements
from planner.training.sequence_costs import TrainingFleet
from planner.training.training_report import print_calibration

TODAY = date(2026, 1, 2)
TRUE = costs(all_to_all_bytes_per_second={2: 700.0, 4: 90.0})
BASE = costs(
    attention_seconds_per_token_squared=1.0, linear_seconds_per_token=1.0, micro_batch_seconds=9.0
)
PLACE = cluster(island(), island("b", relative_speed=0.5, node_bytes_per_second=1e9), between=1e9)


def measured(*, noise: float, seed: int = 0) -> list[GroupMeasurement]:
    """Return groups of random sequences on ranks 0 to 3, and on a slow device."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(60):
        ranks = [(0,), (0, 1), (0, 1, 2, 3), (4,)][generator.integers(4)]
        lengths = tuple(int(n) for n in generator.integers(10, 900, size=generator.integers(1, 5)))
        seconds = TrainingFleet(PLACE, TRUE, 4000).group_cost(ranks).seconds(lengths)
        factor = float(np.exp(noise * generator.standard_normal()))
        found.append(GroupMeasurement(lengths=lengths, ranks=ranks, seconds=seconds * factor))
    return found


def test_exact_times_give_the_costs_back():
    """Without noise every constant and every degree's rate returns, slow devices among them."""
    found = calibrate(measured(noise=0.0), BASE, PLACE, today=TODAY)
    fitted = found.costs
    assert fitted.attention_seconds_per_token_squared == pytest.approx(1e-4, rel=1e-6)
    assert fitted.linear_seconds_per_token == pytest.approx(0.01, rel=1e-6)
    assert fitted.micro_batch_seconds == pytest.approx(0.5, rel=1e-6)
    assert fitted.all_to_all_bytes_per_second == pytest.approx({2: 700.0, 4: 90.0}, rel=1e-5)
    assert fitted.num_query_heads == BASE.num_query_heads
    assert found.median_error_fraction < 1e-9 < found.median_error_before_fraction


def test_links_that_are_slower_than_what_was_measured_are_told():
    """Plans count the slower of the two, so the error is that of the links."""
    exact = measured(noise=0.0)
    assert calibrate(exact, BASE, PLACE, today=TODAY).capped_degrees == ()
    narrow = cluster(
        island(node_bytes_per_second=70.0), island("b", relative_speed=0.5), between=1e9
    )
    found = calibrate([m for m in exact if m.degree > 1], BASE, narrow, today=TODAY)
    assert found.capped_degrees == (2, 4)
    assert found.median_error_fraction > 0.01
    text = io.StringIO()
    print_calibration(found, Console(file=text, width=300))
    assert "degrees [2, 4] exchanged faster than the cluster's links" in text.getvalue()


def test_noise_of_a_tenth_leaves_errors_of_about_a_tenth():
    """The fit neither follows the noise nor breaks on it."""
    found = calibrate(measured(noise=0.1), BASE, PLACE, today=TODAY)
    assert 0.03 < found.median_error_fraction < 0.15
    assert found.costs.attention_seconds_per_token_squared == pytest.approx(1e-4, rel=0.2)


def test_measurements_of_another_cluster_are_refused():
    """A rank that the cluster does not have is named."""
    odd = GroupMeasurement(lengths=(10,), ranks=(99,), seconds=1.0)
    with pytest.raises(ValueError, match="rank 99"):
        calibrate([odd], BASE, PLACE, today=TODAY)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1: malformed JSON"),
        ('{"lengths": [1], "ranks": [0], "seconds": 0}', "line 1: seconds"),
        ('{"lengths": [0], "ranks": [0], "seconds": 1}', "line 1: lengths.0"),
        (json.dumps({"lengths": [5], "ranks": [0], "seconds": 1.0}), "holds 1 measurements"),
    ],
)
def test_files_without_measurements_are_told(tmp_path, line, words):
    """One line with the place."""
    file = tmp_path / "steps.jsonl"
    file.write_text(line)
    with pytest.raises(DocumentError, match=words):
        read_measurements(file)
