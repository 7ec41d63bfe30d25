"""Who of a client's processes trains what of a step: its equal windows, planned once."""

from typing import Literal

import torch
from torch import nn

from finetune.config import JobConfig
from finetune.local_runs.own_costs import own_costs
from finetune.local_runs.step_plans import solved
from finetune.local_runs.training_fleet import cluster_of, model_sizes, usable_bytes
from planner.training.sequence_costs import TrainingFleet
from planner.training.training_plan import BatchPlan


def window_plan(model: nn.Module, job: JobConfig) -> BatchPlan:
    """Return the heuristic's plan of a step's sequences on the client's devices.

    Raises:
        InfeasibleError: If a sequence does not fit into the memory of all of them together.
    """
    local = job.local_training
    on_gpu = local.device != "cpu" and torch.cuda.is_available()
    kind: Literal["cpu", "cuda"] = "cuda" if on_gpu else "cpu"
    cluster = cluster_of(
        kind,
        num_nodes=1,
        per_node=local.processes,
        memory_bytes=usable_bytes(torch.device(kind), per_machine=local.processes),
    )
    tokens = job.sequence_tokens + 1  # the last one is predicted only
    costs = own_costs(
        model_sizes(model),
        name=job.name,
        max_tokens=tokens,
        is_sharded=False,
        in_bfloat16=local.precision == "bfloat16",
        is_checkpointed=local.gradient_checkpointing,
        device=kind,
    )
    return solved([tokens] * job.batch_size, TrainingFleet(cluster, costs, max_tokens=tokens))
