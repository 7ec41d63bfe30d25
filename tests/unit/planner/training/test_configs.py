"""The example files of training plans."""

from pathlib import Path

import pytest

from planner.documents import read_document
from planner.training.cluster import Cluster
from planner.training.find_costs import find_costs
from planner.training.lengths import read_lengths
from planner.training.plan_training import plan_batch
from planner.training.sequence_costs import TrainingFleet

FOLDER = Path(__file__).parents[4] / "configs" / "training"
CLUSTERS = sorted(path for path in FOLDER.glob("*.yaml") if "lengths" not in path.name)


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda path: path.stem)
def test_every_example_cluster_is_planned(path):
    """With the published 7B costs, a batch of the example lengths has a verified plan."""
    cluster = read_document(path, Cluster)
    lengths = [n for n in read_lengths(FOLDER / "lengths-example.yaml") if n < 60_000][:128]
    fleet = TrainingFleet(cluster, find_costs("flexsp-7b"), 65536)
    plan = plan_batch(lengths, fleet)
    assert plan.lower_bound_seconds <= plan.predicted_seconds
    assert plan.predicted_seconds <= plan.homogeneous.predicted_seconds


def test_every_file_of_the_folder_is_one_of_these():
    """A cluster or lengths; nothing lies there unread."""
    assert {path.name for path in FOLDER.iterdir()} == {
        "lengths-example.yaml",
        *(path.name for path in CLUSTERS),
    }
