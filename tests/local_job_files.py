"""Jobs of `motley finetune local` for tests, on a toy model."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

WORDS = ("one", "two", "three", "four", "five", "six")
ADAPTER = {"rank": 2, "alpha": 4, "target_modules": ["q_proj", "down_proj"]}


def local_job_content(model: Path, text: Path, **changes: Any) -> dict[str, Any]:
    """Return the content of a job; `changes` replace keys."""
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": "toy",
        "model": str(model),
        "data": {"kind": "jsonl", "path": str(text)},
        "adapter": ADAPTER,
        "steps": 5,
        "batch_size": 4,
        "max_tokens": 128,
        "learning_rate": 0.02,
        "held_out_fraction": 0.2,
        "checkpoint_every": 2,
        "output": "run",
    }
    return content | changes


def write_documents(path: Path, *, num_words: tuple[int, ...]) -> Path:
    """Write one document for each number of words, each different."""
    rows = [
        " ".join(WORDS[(place * number + place) % 6] for place in range(count))
        for number, count in enumerate(num_words, start=1)
    ]
    path.write_text(
        "".join(json.dumps({"text": f"{n} {row}"}) + "\n" for n, row in enumerate(rows))
    )
    return path


def write_local_job(path: Path, content: dict[str, Any]) -> Path:
    """Write a job file."""
    path.write_text(yaml.safe_dump(content))
    return path


def memory_bytes_for(content: dict[str, Any], *, num_devices: int, device_tokens: int) -> int:
    """Return the memory of a device that holds so many tokens of a job beside its model."""
    from finetune.base_model import load_base_model
    from finetune.local_runs.local_job import LocalJob
    from finetune.local_runs.trained_model import trained_model
    from finetune.local_runs.training_fleet import job_costs, model_sizes

    job = LocalJob.model_validate(content)
    model = trained_model(load_base_model(job.model), job)
    costs = job_costs(job, model_sizes(model), device="cpu")
    states = costs.state_bytes(max_tokens=job.max_tokens, num_devices=num_devices)
    return math.ceil(states + device_tokens * costs.activation_bytes_per_token)


def small_cluster(*, num_devices: int, memory_bytes: int = 1000) -> dict[str, Any]:
    """Return a cluster whose devices hold so many bytes each."""
    return {
        "schema_version": 1,
        "islands": [
            {
                "name": "here",
                "devices_per_node": num_devices,
                "device": "cpu",
                "memory_bytes": memory_bytes,
                "node_bytes_per_second": 1e9,
                "nic_bytes_per_second": 1e9,
            }
        ],
    }


def small_costs(*, device_tokens: int) -> dict[str, Any]:
    """Return costs of the toy model by which a device of `small_cluster` holds so many tokens."""
    return {
        "schema_version": 1,
        "name": "toy",
        "attention_seconds_per_token_squared": 1e-6,
        "linear_seconds_per_token": 1e-4,
        "micro_batch_seconds": 1e-4,
        "activation_bytes_per_token": 1000 / device_tokens,
        "model_states": [{"max_tokens": 128, "num_bytes": 0}],
        "sharding": "none",
        "num_layers": 2,
        "num_query_heads": 2,
        "num_key_value_heads": 1,
        "head_size": 16,
        "source": "made up for a test",
        "date": "2026",
    }
