"""A small training plan with a placement over two unlike islands."""

from typing import Any

from planner.training.training_plan import TrainingPlan

GIB = 2**30


def placed_plan(**changes: Any) -> TrainingPlan:
    """Return the plan; `changes` replace whole fields of its placement."""
    return TrainingPlan.model_validate(placed_content(**changes))


def placed_content(**changes: Any) -> dict[str, Any]:
    """Return the plan as it stands in a file: one device of island `far` is idle."""
    return {
        "schema_version": 1,
        "kind": "training-plan",
        "model": "meta-llama/Llama-3.2-3B",
        "cluster": {
            "schema_version": 1,
            "islands": [
                _island(
                    "near", 2, 4, nic="infiniband", nic_devices="mlx5_0,mlx5_1", relative_speed=1.0
                ),
                _island("far/away", 1, 5, nic="roce", socket_interface="eth0", nic_gid_index=3),
            ],
            "between_islands_bytes_per_second": 1.25e9,
        },
        "costs": {
            "schema_version": 1,
            "name": "llama-3b",
            "attention_seconds_per_token_squared": 5e-12,
            "linear_seconds_per_token": 1e-4,
            "micro_batch_seconds": 0.1,
            "activation_bytes_per_token": 4e6,
            "model_states": [{"max_tokens": 4096, "num_bytes": 5e10}],
            "num_layers": 28,
            "num_query_heads": 24,
            "num_key_value_heads": 8,
            "head_size": 128,
            "source": "made up for tests",
            "date": "2026-11",
        },
        "max_tokens": 4096,
        "batch_size": 32,
        "batches": [
            {
                "lengths": [4096],
                "micro_batches": [
                    {"groups": [{"ranks": [0], "sequences": [0], "predicted_seconds": 0.6}]}
                ],
                "predicted_seconds": 0.6,
                "lower_bound_seconds": 0.5,
                "solver": "heuristic",
                "planning_seconds": 0.01,
                "static": None,
                "homogeneous": None,
            }
        ],
        "placement": _placement() | changes,
    }


def _island(name: str, num_nodes: int, devices: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "num_nodes": num_nodes,
        "devices_per_node": devices,
        "device": "A100-80GB",
        "memory_bytes": "75GiB",
        "relative_speed": 0.8,
        "node_bytes_per_second": 3e11,
        "nic_bytes_per_second": 2.5e10,
    } | changes


def _placement() -> dict[str, Any]:
    return {
        "tensor": 2,
        "context": 1,
        "pipeline": 3,
        "data": 2,
        "sequence_tokens": 4096,
        "micro_batch_sequences": 1,
        "num_micro_batches": 16,
        "stages": [
            _stage(1, 8, (8, 9, 10, 11), data_link="node", next_link="ethernet"),
            _stage(0, 10, (0, 1, 2, 3), data_link="node", next_link="infiniband"),
            _stage(0, 10, (4, 5, 6, 7), data_link="node", next_link="none"),
        ],
        "predicted_seconds": 3.25,
        "simulated_seconds": 3.26,
        "naive_seconds": 4.5,
        "best_naive": None,
        "idle_ranks": (12,),
        "reasons": ("a step takes 3.25 s, 4.5 s with the same degrees in plain rank order",),
    }


def _stage(island: int, layers: int, ranks: tuple[int, ...], **links: str) -> dict[str, Any]:
    return {
        "island": island,
        "num_layers": layers,
        "ranks": ranks,
        "forward_seconds": 0.05,
        "backward_seconds": 0.1,
        "gradient_seconds": 0.01,
        "memory_bytes": 20 * GIB,
        "tensor_link": "node",
        "next_seconds": 0.001,
    } | links
