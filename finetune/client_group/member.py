"""A process of a client beside its first one: holds model and adapter, and steps when told."""

import logging
import os
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Store, TCPStore

from finetune.base_model import load_base_model
from finetune.client_group.shared_optimisation import SharedOptimisation
from finetune.config import JobConfig
from finetune.errors import FinetuneError
from finetune.lora import attach_adapter, write_tensors
from finetune.sequence_parallel.distributed import COLLECTIVE_SECONDS
from finetune.sequence_parallel.group_pool import GroupPool
from finetune.sequence_parallel.step import Precision, SequenceParallelStep
from finetune.token_windows import Tokens
from finetune.updates import Tensors
from planner.errors import PlannerError
from planner.training.training_plan import BatchPlan

_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Place:
    """A process among those of its client.

    Attributes:
        rank: From 0, the client's own process.
        num_processes: All of them.
        port: Where the first one's store listens on loopback.
        gpu: What CUDA_VISIBLE_DEVICES gets; None on processors.
        num_threads: Of torch's arithmetic.
    """

    rank: int
    num_processes: int
    port: int
    gpu: str | None
    num_threads: int


@dataclass(frozen=True, slots=True)
class Round:
    """What every process needs to take a round's steps."""

    tensors: Tensors
    batches: tuple[Tokens, ...]
    plan: BatchPlan
    seed: int


def member_main(connection: Connection, job_json: str, place: Place) -> None:
    """Load the model, say so, join the others, take the rounds that come until the pipe closes.

    What fails before the others wait is sent as text; after that they notice a closed socket.
    """
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(place.num_threads)
    if place.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = place.gpu
    job = JobConfig.model_validate_json(job_json)
    try:
        model = attach_adapter(load_base_model(job.model).model, job)
    except (FinetuneError, PlannerError) as error:
        connection.send(str(error))
        return
    connection.send(None)
    store = TCPStore(_HOST, place.port, place.num_processes, is_master=False)
    step = join(model, job, place, store)
    model.train()
    while True:
        try:
            work: Round = connection.recv()
        except EOFError:  # the client's own process has ended, or closed its group
            break
        write_tensors(model, work.tensors)
        torch.manual_seed(work.seed)
        optimisation = SharedOptimisation(model, job, step)
        try:
            for batch_SL in work.batches:
                optimisation.step(batch_SL, work.plan)
        except RuntimeError:  # another process ended; the first one says which
            break
    dist.destroy_process_group()


def join(
    model: torch.nn.Module, job: JobConfig, place: Place, store: Store
) -> SequenceParallelStep:
    """Join the client's other processes; return the step that they take together.

    Loopback carries what they exchange on processors, and NCCL on GPUs.
    """
    device = torch.device("cpu" if place.gpu is None else "cuda")
    # Gloo would ask the name service for this host's address.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo" if place.gpu is None else "nccl",
        store=store,
        rank=place.rank,
        world_size=place.num_processes,
        timeout=timedelta(seconds=COLLECTIVE_SECONDS),
    )
    in_bfloat16 = job.local_training.precision == "bfloat16"
    precision: Precision = "bfloat16" if in_bfloat16 else "float32"
    return SequenceParallelStep(model, pool=GroupPool(), device=device, precision=precision)
