"""Every pair of a job's parts: refused when the job is read, or run for two rounds."""

from copy import deepcopy
from itertools import combinations

import numpy as np
import pytest
from deployed_job import run_deployed
from pydantic import ValidationError
from safetensors.numpy import load_file
from toy_job import job_content
from watched_job import Watcher, metrics

from finetune.adapters import read_adapter
from finetune.aggregation import STRATEGIES
from finetune.compatibility import conflict
from finetune.config import JobConfig
from finetune.job import run_job
from finetune.run_folder import RunFolder

SPARSE = {"download_density": 0.5, "upload_density": 0.25}
PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "most_epsilon": 100.0}
PARTS = {
    "aggregation": {name: {"aggregation": name} for name in STRATEGIES},
    "sparsity": {
        "weights": {"sparsity": SPARSE},
        "change": {"sparsity": SPARSE | {"download": "change"}},
        "feedback": {"sparsity": SPARSE | {"error_feedback": {}}},
        "shared": {"sparsity": SPARSE | {"mask": "shared", "error_feedback": {}}},
        "shared-change": {"sparsity": SPARSE | {"mask": "shared", "download": "change"}},
        "int8": {"sparsity": SPARSE | {"upload_values": "int8", "download_values": "bfloat16"}},
    },
    "trust": {
        "clip": {"trust": {"clip_norm": 0.5, "most_product_norm": 1e3}},
        "capped": {"trust": {"most_examples": 3}},
        "median": {"trust": {"robust": {"kind": "median", "num_attackers": 1}}},
        "krum": {"trust": {"robust": {"kind": "krum", "num_attackers": 1}}},
        "privacy": {"trust": {"privacy": PRIVACY}},
        "secure": {"trust": {"secure_sum": {"threshold": 3}, "clip_norm": 1.0}},
    },
    "rank": {"falling": {"final_rank": 1}, "mixed": {"client_rank": 1}},
    "proximal": {"on": {"proximal_mu": 0.1}},
    "local": {
        "narrow": {
            "batch_size": 2,
            "local_training": {
                "precision": "bfloat16",
                "gradient_checkpointing": True,
                "gradient_accumulation_steps": 2,
            },
        }
    },
    "place": {"deployed": {"deployment": {"address": "127.0.0.1:9443", "certificates": "certs"}}},
    "scheduling": {
        "selected": {
            "scheduling": {
                "selection": {"kind": "uniform", "num_clients": 5},
                "virtual_clock": "machines",
            }
        },
        "fedstale": {
            "scheduling": {
                "selection": {"kind": "uniform", "num_clients": 5},
                "fedstale": {"beta": 0.5},
            }
        },
        "fedcompass": {"scheduling": {"kind": "fedcompass", "virtual_clock": "machines"}},
        "fedbuff": {"scheduling": {"kind": "fedbuff"}},
        "fedast": {
            "scheduling": {"kind": "fedast", "virtual_clock": "machines"},
            "adapters": [{"name": "one"}, {"name": "two"}],
        },
    },
}
PAIRS = [
    pytest.param(one | other, id=f"{first}-{second}")
    for (_, firsts), (_, seconds) in combinations(PARTS.items(), 2)
    for first, one in firsts.items()
    for second, other in seconds.items()
]
BY_PRODUCTS = {
    "best-rank-fedcompass-falling": ("best-rank", "fedcompass", PARTS["rank"]["falling"]),
    "flora-fedbuff-falling": ("flora", "fedbuff", PARTS["rank"]["falling"]),
    "best-rank-fedast-falling": ("best-rank", "fedast", PARTS["rank"]["falling"]),
    "flora-fedcompass-mixed": ("flora", "fedcompass", PARTS["rank"]["mixed"]),
    "best-rank-fedbuff-weights": ("best-rank", "fedbuff", PARTS["sparsity"]["weights"]),
    "best-rank-fedcompass-change": ("best-rank", "fedcompass", PARTS["sparsity"]["change"]),
    "flora-fedbuff-feedback": ("flora", "fedbuff", PARTS["sparsity"]["feedback"]),
    "best-rank-fedcompass-falling-change": (
        "best-rank",
        "fedcompass",
        PARTS["rank"]["falling"] | PARTS["sparsity"]["change"],
    ),
    "flora-fedbuff-falling-feedback": (
        "flora",
        "fedbuff",
        PARTS["rank"]["falling"] | PARTS["sparsity"]["feedback"],
    ),
}
"""Parts of which two are refused, or do something, without the third."""
THREE = [
    pytest.param({"aggregation": name} | PARTS["scheduling"][kind] | third, id=case)
    for case, (name, kind, third) in BY_PRODUCTS.items()
]


def with_machines(scheduling, clients):
    """Return a scheduling block whose virtual clock knows the clients, each slower than the last."""
    if "virtual_clock" not in scheduling:
        return scheduling
    machines = {
        client["name"]: {
            "seconds_per_step": 1 + number,
            "download_bytes_per_second": 1e4,
            "upload_bytes_per_second": 1e4,
        }
        for number, client in enumerate(clients)
    }
    return scheduling | {"virtual_clock": {"machines": machines}}


def refusal(content):
    """Return why a job is not read, or None."""
    try:
        job = JobConfig.model_validate(content)
        return conflict(job.parts(is_deployed=job.deployment is not None))
    except ValidationError as error:
        return str(error)


@pytest.mark.parametrize("changes", PAIRS)
def test_every_pair_runs_or_is_refused_with_a_reason(toy_model, texts, tmp_path, changes):
    """Two rounds end with a finite adapter that moved, judged by all; a refusal names two fields."""
    run_or_refuse(toy_model, texts, tmp_path, changes)


@pytest.mark.parametrize("changes", THREE)
def test_updates_of_older_versions_count_by_products_with_a_third_part(
    toy_model, texts, tmp_path, changes
):
    """Nothing of what products make sound is refused, and each version tells what its cut lost."""
    lines = run_or_refuse(toy_model, texts, tmp_path, changes)
    assert lines is not None
    assert all(line["aggregation_error"]["relative"] < 1 for line in lines)
    assert lines[0]["aggregation_error"]["absolute"] > 0


def run_or_refuse(toy_model, texts, tmp_path, changes):
    """Run a job with some keys changed for two rounds; return its metrics, None if it is refused."""
    changes = deepcopy(changes)
    content = job_content(toy_model, texts, output=tmp_path / "run", rounds=2, local_steps=1)
    content |= {"batch_size": 1, "held_out_tokens": 48}
    # Krum needs five; where five are selected one more is absent.
    num_more = 3 if "scheduling" in changes else 2 if "krum" in str(changes.get("trust")) else 0
    content["clients"] += [c | {"name": f"{c['name']}-2"} for c in content["clients"][:num_more]]
    client_rank = changes.pop("client_rank", None)
    content |= changes
    if "secure" in str(changes.get("trust")):  # more than half of them
        content["trust"]["secure_sum"]["threshold"] = len(content["clients"]) // 2 + 1
    if client_rank is not None:
        content["clients"][0]["rank"] = client_rank
    if "scheduling" in content:
        content["scheduling"] = with_machines(content["scheduling"], content["clients"])
    reason = refusal(content)
    if reason is not None:
        assert " with " in reason
        return None
    job = JobConfig.model_validate(content)
    if job.deployment is None:
        run_job(job, folder=tmp_path / "run", observer=Watcher())
    else:
        run_deployed(job, folder=tmp_path / "run", state=tmp_path / "state")
    folder = RunFolder(tmp_path / "run")
    for name in job.adapter_names:
        tensors = load_file(folder.adapter_of(name) / "adapter_model.safetensors")
        assert all(np.isfinite(tensor).all() for tensor in tensors.values())
        assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    lines = metrics(tmp_path / "run")
    assert len(lines) >= 2
    assert not any(line["refused"] for line in lines)
    names = {client.name for client in job.clients}
    asked = [names, names] if job.scheduling is None else [names]
    assert [line["held_out"]["loss"].keys() for line in lines][: len(asked)] == asked
    return lines


@pytest.mark.parametrize("name", ["weights", "change", "feedback", "int8"])
def test_a_deployed_sparse_job_is_the_one_in_process_bit_for_bit(toy_model, texts, tmp_path, name):
    """State on disk and settled by receipts, or in the server's process: one adapter, one loss."""
    content = job_content(toy_model, texts, output=tmp_path / "run", local_steps=1)
    job = JobConfig.model_validate(content | PARTS["sparsity"][name])
    run_job(job, folder=tmp_path / "here", observer=Watcher())
    run_deployed(job, folder=tmp_path / "there", state=tmp_path / "state")
    here, there = (tmp_path / place / "adapter" for place in ("here", "there"))
    weights = "adapter_model.safetensors"
    assert (here / weights).read_bytes() == (there / weights).read_bytes()
    assert read_adapter(here).clients == read_adapter(there).clients
