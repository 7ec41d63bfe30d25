"""Small clusters and round costs for tests of training plans."""

from typing import Any

from planner.training.cluster import Cluster, Island
from planner.training.sequence_costs import ModelStates, SequenceCosts, TrainingFleet


def island(name: str = "a", **changes: Any) -> Island:
    """Return one node of four devices of 1,000 bytes, 1,000 bytes/s inside, 100 outside."""
    content: dict[str, Any] = {
        "name": name,
        "devices_per_node": 4,
        "device": "toy",
        "memory_bytes": 1000,
        "node_bytes_per_second": 1000.0,
        "nic": "infiniband",
        "nic_bytes_per_second": 100.0,
    }
    return Island(**(content | changes))


def cluster(*islands: Island, between: float = 10.0) -> Cluster:
    """Return a cluster of the islands, or of one node."""
    return Cluster(
        schema_version=1,
        islands=islands or (island(),),
        between_islands_bytes_per_second=between,
    )


def costs(**changes: Any) -> SequenceCosts:
    """Return costs of a model without states, whose token takes a byte and a hundredth second."""
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": "toy",
        "attention_seconds_per_token_squared": 1e-4,
        "linear_seconds_per_token": 0.01,
        "micro_batch_seconds": 0.5,
        "activation_bytes_per_token": 1.0,
        "model_states": (ModelStates(max_tokens=1000, num_bytes=0.0),),
        "num_layers": 1,
        "num_query_heads": 4,
        "num_key_value_heads": 4,
        "head_size": 1,
        "source": "made up for tests",
        "date": "2024",
    }
    return SequenceCosts(**(content | changes))


def fleet(*islands: Island, ignores_heads: bool = False, **changes: Any) -> TrainingFleet:
    """Return the costs on a cluster of the islands."""
    return TrainingFleet(cluster(*islands), costs(**changes), 4000, ignores_heads)
