"""What a local run's steps are planned on: its devices and the model's costs, read or made."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finetune.errors import LocalRunError
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.own_costs import ModelSizes, own_costs, with_measured_times
from finetune.local_runs.ranks import Ranks
from finetune.local_runs.step_plans import ReadyPlans, SolvedPlans, StepPlans
from planner.documents import read_document
from planner.training.cluster import Cluster, Island
from planner.training.sequence_costs import SequenceCosts, TrainingFleet
from planner.training.training_plan import TrainingPlan

_USABLE_FRACTION = 0.85
"""Of a device's memory: the rest is for buffers, fragments and whatever else runs."""

_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
"""Of a container: control groups of version 2 and of version 1."""

_NODE_BYTES_PER_SECOND = {"cpu": 1e9, "cuda": 5e10}
"""Between processes of one machine: loopback sockets; a GPU's links."""

_NETWORK_BYTES_PER_SECOND = 1.25e9
"""Between machines, of one device: 10 Gbit/s Ethernet. A cluster file says better."""


def make_step_plans(
    job: LocalJob, sizes: ModelSizes, *, num_steps: int, cluster: Cluster
) -> StepPlans:
    """Return what plans a run's steps.

    Args:
        job: Names a plan, a cluster or costs, if it does not want ours.
        sizes: The model's.
        num_steps: Steps of the run.
        cluster: The run's own devices.

    Raises:
        LocalRunError: If the files are not of this run's processes or model.
        DocumentError: If one cannot be read.
    """
    if job.plan is not None:
        return ReadyPlans(
            read_document(job.plan, TrainingPlan),
            num_steps=num_steps,
            num_devices=cluster.num_devices,
            num_heads=sizes.num_query_heads,
        )
    costs = job_costs(job, sizes, device=cluster.islands[0].device)
    given = cluster if job.cluster is None else read_document(job.cluster, Cluster)
    if given.num_devices != cluster.num_devices:
        raise LocalRunError(
            f"cluster: {job.cluster} has {given.num_devices} devices and {cluster.num_devices} "
            "processes run; start a process for each device"
        )
    return SolvedPlans(TrainingFleet(given, costs, max_tokens=job.max_tokens), job)


def own_cluster(ranks: Ranks) -> Cluster:
    """Return the devices of this process group as one island of alike nodes; all ranks must call."""
    per_node = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.world_size))
    memory_bytes = min(ranks.gather(usable_bytes(ranks.device, per_machine=per_node)))
    if ranks.world_size % per_node:
        per_node = ranks.world_size
    return cluster_of(
        ranks.device.type,
        num_nodes=ranks.world_size // per_node,
        per_node=per_node,
        memory_bytes=memory_bytes,
    )


def cluster_of(kind: str, *, num_nodes: int, per_node: int, memory_bytes: int) -> Cluster:
    """Return alike machines whose links nobody described.

    Args:
        kind: `cpu` or `cuda`.
        num_nodes: Machines.
        per_node: Devices of one.
        memory_bytes: What one device may fill.
    """
    island = Island(
        name="local",
        num_nodes=num_nodes,
        devices_per_node=per_node,
        device=kind,
        memory_bytes=memory_bytes,
        node_bytes_per_second=_NODE_BYTES_PER_SECOND[kind],
        nic_bytes_per_second=_NETWORK_BYTES_PER_SECOND,
    )
    return Cluster(schema_version=1, islands=(island,))


def model_sizes(model: nn.Module) -> ModelSizes:
    """Return what decides the costs of a causal language model, with or without an adapter."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config()
    num_heads = int(config.num_attention_heads)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // num_heads
    weights = list(model.parameters())
    return ModelSizes(
        num_layers=int(config.num_hidden_layers),
        num_query_heads=num_heads,
        num_key_value_heads=int(getattr(config, "num_key_value_heads", None) or num_heads),
        head_size=int(head_size),
        width=int(config.hidden_size),
        vocabulary_size=int(config.vocab_size),
        num_weights=sum(weight.numel() for weight in weights),
        num_trained=sum(weight.numel() for weight in weights if weight.requires_grad),
    )


def job_costs(job: LocalJob, sizes: ModelSizes, *, device: str) -> SequenceCosts:
    """Return what memory the job needs by its own keys, with the times of its costs file if any.

    Args:
        job: What to do.
        sizes: The model's.
        device: `cpu` or `cuda`.

    Raises:
        LocalRunError: If the file is of another model.
        DocumentError: If it cannot be read.
    """
    own = own_costs(
        sizes,
        name=job.name,
        max_tokens=job.max_tokens,
        is_sharded=job.sharding == "fsdp2",
        in_bfloat16=job.precision == "bfloat16",
        is_checkpointed=job.gradient_checkpointing,
        device=device,
    )
    if job.costs is None:
        return own
    measured = read_document(job.costs, SequenceCosts)
    if measured.num_query_heads != sizes.num_query_heads:
        raise LocalRunError(
            f"costs: {job.costs} are of {measured.num_query_heads} query heads and the model has "
            f"{sizes.num_query_heads}; calibrate on a run of this model"
        )
    return with_measured_times(own, measured)


def machine_bytes(limits: Sequence[Path] = _MEMORY_LIMITS) -> int:
    """Return the memory of this machine, or of the container that holds this process.

    Args:
        limits: Files that hold a number of bytes, or a word where there is no limit.
    """
    held = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in limits:
        with suppress(OSError, ValueError):
            held.append(int(path.read_text(encoding="ascii")))
    return min(held)


def usable_bytes(device: torch.device, *, per_machine: int) -> int:
    """Return what a process may fill: its GPU, or its share of the machine's memory."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
    else:
        total = machine_bytes() // per_machine
    return int(total * _USABLE_FRACTION)
