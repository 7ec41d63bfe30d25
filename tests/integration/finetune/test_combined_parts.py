"""Every pair of a job's parts: refused when the job is read, or run for two rounds."""

from itertools import combinations

import numpy as np
import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file
from toy_job import job_content
from watched_job import Watcher, metrics

from finetune.aggregation import STRATEGIES
from finetune.config import JobConfig
from finetune.job import run_job

SPARSE = {"download_density": 0.5, "upload_density": 0.25}
PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "most_epsilon": 100.0}
PARTS = {
    "aggregation": {name: {"aggregation": name} for name in STRATEGIES},
    "sparsity": {
        "weights": {"sparsity": SPARSE},
        "change": {"sparsity": SPARSE | {"download": "change"}},
        "feedback": {"sparsity": SPARSE | {"error_feedback": {}}},
        "int8": {"sparsity": SPARSE | {"upload_values": "int8", "download_values": "bfloat16"}},
    },
    "trust": {
        "clip": {"trust": {"clip_norm": 0.5, "most_product_norm": 1e3}},
        "median": {"trust": {"robust": {"kind": "median", "num_attackers": 1}}},
        "krum": {"trust": {"robust": {"kind": "krum", "num_attackers": 1}}},
        "privacy": {"trust": {"privacy": PRIVACY}},
        "secure": {"trust": {"secure_sum": {"threshold": 3}, "clip_norm": 1.0}},
    },
    "rank": {"falling": {"final_rank": 1}, "mixed": {"client_rank": 1}},
    "proximal": {"on": {"proximal_mu": 0.1}},
}
PAIRS = [
    pytest.param(one | other, id=f"{first}-{second}")
    for (_, firsts), (_, seconds) in combinations(PARTS.items(), 2)
    for first, one in firsts.items()
    for second, other in seconds.items()
]


def refusal(content):
    """Return why a job is not read, or None."""
    try:
        JobConfig.model_validate(content)
    except ValidationError as error:
        return str(error)
    return None


@pytest.mark.parametrize("changes", PAIRS)
def test_every_pair_runs_or_is_refused_with_a_reason(toy_model, texts, tmp_path, changes):
    """Two rounds end with a finite adapter that moved; a refusal names two fields of the job."""
    changes = dict(changes)
    content = job_content(toy_model, texts, output=tmp_path / "run", rounds=2, local_steps=1)
    # Krum needs five.
    content["clients"] += [one | {"name": f"{one['name']}-2"} for one in content["clients"][:2]]
    client_rank = changes.pop("client_rank", None)
    content |= changes
    if client_rank is not None:
        content["clients"][0]["rank"] = client_rank
    reason = refusal(content)
    if reason is not None:
        assert " with " in reason
        return
    job = JobConfig.model_validate(content)
    run_job(job, folder=tmp_path / "run", observer=Watcher())
    tensors = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    assert [line["refused"] for line in metrics(tmp_path / "run")] == [{}, {}]
