"""This process among those of a job, as torchrun or `accelerate launch` tell it in its environment."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from finetune.errors import DeviceError, SequenceParallelError

COLLECTIVE_SECONDS = 1800.0
"""How long processes wait for each other in one exchange, rank 0's planning of a step included."""

DeviceWish = Literal["auto", "cpu", "cuda"]

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Set by every launcher; torch makes its connections from them."""

_OF_MPI = {
    "RANK": ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"),
    "WORLD_SIZE": ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
    "LOCAL_RANK": ("MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
}
"""What mpirun sets instead, by which `accelerate launch --cpu` starts several processes."""


@dataclass(frozen=True, slots=True)
class Launch:
    """What a launcher said of this process.

    Attributes:
        rank: Among all processes of the job, from 0.
        world_size: Processes of the job.
        local_rank: Among those of this machine, from 0.
    """

    rank: int
    world_size: int
    local_rank: int


def launch_of(environment: Mapping[str, str]) -> Launch | None:
    """Return what a launcher said, None where none did.

    Raises:
        SequenceParallelError: If a part of it lacks or is no rank.
    """
    words = _words(environment)
    given = [name for name in ("RANK", "WORLD_SIZE") if words.get(name)]
    if not given:
        return None
    if lacking := [name for name in _NEEDED if not words.get(name)]:
        raise SequenceParallelError(
            f"environment: {given[0]} is set and {', '.join(lacking)} not; start with torchrun or "
            "accelerate launch, or unset it"
        )
    rank, world_size = (_count(words, name) for name in ("RANK", "WORLD_SIZE"))
    local_rank = _count(words, "LOCAL_RANK") if words.get("LOCAL_RANK") else rank
    if rank >= world_size:
        raise SequenceParallelError(
            f"environment: RANK {rank} with WORLD_SIZE {world_size}; ranks count from 0"
        )
    return Launch(rank, world_size, local_rank)


@contextmanager
def distributed_job(
    wish: DeviceWish = "auto",
    *,
    environment: Mapping[str, str] = os.environ,
    timeout_seconds: float = COLLECTIVE_SECONDS,
) -> Iterator[torch.device]:
    """Join the job's other processes; yield the device of this one.

    Gloo carries tensors on processors and NCCL those on GPUs, one GPU a process. Without a launcher
    there is one process, and torch.distributed stays off.

    Args:
        wish: `auto` takes GPUs where torch finds them.
        environment: Where the launcher's words are.
        timeout_seconds: How long a collective may take.

    Raises:
        SequenceParallelError: If the launcher's words are not whole, or the others do not come.
        DeviceError: If this machine has no GPU for this process.
    """
    launch = launch_of(environment)
    device = _device(wish, launch)
    if launch is None:
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=timedelta(seconds=timeout_seconds),
            device_id=device if device.type == "cuda" else None,
        )
    except (dist.DistError, RuntimeError, ValueError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise SequenceParallelError(
            f"rank {launch.rank} of {launch.world_size} cannot join the others at "
            f"{environment['MASTER_ADDR']}:{environment['MASTER_PORT']} ({first}); check that all "
            "were started and reach it"
        ) from None
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _device(wish: DeviceWish, launch: Launch | None) -> torch.device:
    found = torch.cuda.device_count()
    if wish == "cpu" or (wish == "auto" and not found):
        return torch.device("cpu")
    if not found:
        raise DeviceError(
            "device: cuda, and torch finds none; install a torch for CUDA, or take auto"
        )
    local_rank = launch.local_rank if launch else 0
    if local_rank >= found:
        raise DeviceError(
            f"LOCAL_RANK {local_rank} and {found} GPUs on this machine; start at most {found} "
            "processes here, or take device cpu"
        )
    return torch.device("cuda", local_rank)


def _words(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the launcher's words, MPI's under their usual names.

    Those count only beside an address to meet at: a batch system sets them for every program.
    """
    words = dict(environment)
    if words.get("MASTER_ADDR"):
        for name, others in _OF_MPI.items():
            found = next((words[other] for other in others if words.get(other)), None)
            if found is not None and not words.get(name):
                words[name] = found
    return words


def _count(words: Mapping[str, str], name: str) -> int:
    word = words[name]
    if not word.isdecimal():
        raise SequenceParallelError(
            f"environment: {name}={word!r} is no count; unset or correct it"
        )
    return int(word)
