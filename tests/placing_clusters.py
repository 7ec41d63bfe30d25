"""Clusters and a small model for tests of placements."""

from typing import Any

from planner.hardware.model_spec import ModelSpec
from planner.training.cluster import Cluster

GIB = 2**30


def island(name: str, **changes: Any) -> dict[str, Any]:
    """Return one node of eight A100 with InfiniBand, with some fields changed."""
    return {
        "name": name,
        "num_nodes": 1,
        "devices_per_node": 8,
        "device": "A100-80GB",
        "memory_bytes": "75GiB",
        "node_bytes_per_second": 300e9,
        "nic": "infiniband",
        "nic_bytes_per_second": 25e9,
        "nic_latency_seconds": 5e-6,
    } | changes


def cluster(*islands: dict[str, Any], ethernet: float = 1.25e9) -> Cluster:
    """Return a cluster of these islands."""
    return Cluster.model_validate(
        {
            "schema_version": 1,
            "islands": islands,
            "between_islands_bytes_per_second": ethernet,
            "between_islands_latency_seconds": 5e-5,
        }
    )


def small_model(**changes: Any) -> ModelSpec:
    """Return a decoder of twelve layers, with some fields changed."""
    return ModelSpec.model_validate(
        {
            "name": "small",
            "num_layers": 12,
            "hidden_size": 1024,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "attention_values_per_pair": 2048,
            "kv_values_per_token": 12 * 1024,
            "layer_parameters": 12 * 12_000_000,
            "vocabulary_parameters": 32_000 * 1024,
            "is_embedding_tied": False,
            "max_context_tokens": 4096,
        }
        | changes
    )
