"""The processes of a local run, and what they tell each other outside the training step."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor, distributed

from finetune.errors import FinetuneError, LocalRunError
from finetune.sequence_parallel.distributed import DeviceWish, distributed_job
from finetune.sequence_parallel.rank_watch import RankWatch
from planner.errors import PlannerError

Value = TypeVar("Value")


class Ranks(Protocol):
    """A process among those of the run."""

    rank: int
    """Its number, from 0."""
    world_size: int
    """How many there are."""
    device: torch.device
    """Where it computes."""

    def share(self, value: Value) -> Value:
        """Return what rank 0 gives, on every rank; all must call."""

    def gather(self, value: Value) -> list[Value]:
        """Return what each rank gives, by rank, on every rank; all must call."""

    def share_tensor(self, tensor: Tensor) -> None:
        """Make `tensor`, in place, what it is on rank 0; all must call."""


class Alone:
    """The only process of a run."""

    rank, world_size = 0, 1

    def __init__(self, device: torch.device) -> None:
        """Compute on a device."""
        self.device = device

    def share(self, value: Value) -> Value:
        """Return the value."""
        return value

    def gather(self, value: Value) -> list[Value]:
        """Return the value alone."""
        return [value]

    def share_tensor(self, tensor: Tensor) -> None:
        """Leave the tensor as it is."""


class Joined:
    """A process of torch.distributed's default group."""

    def __init__(self, *, rank: int, world_size: int, device: torch.device) -> None:
        """Name this process's place."""
        self.rank, self.world_size, self.device = rank, world_size, device

    def share(self, value: Value) -> Value:
        """Return what rank 0 gives."""
        box: list[Any] = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        shared: Value = box[0]
        return shared

    def gather(self, value: Value) -> list[Value]:
        """Return what each rank gives, by rank."""
        boxes: list[Any] = [None] * self.world_size
        distributed.all_gather_object(boxes, value)
        return boxes

    def share_tensor(self, tensor: Tensor) -> None:
        """Overwrite the tensor by rank 0's."""
        distributed.broadcast(tensor, src=0)


@contextmanager
def joined_ranks(wish: DeviceWish) -> Iterator[Ranks]:
    """Join the processes that a launcher started with this one, or be the only one.

    Where one is lost or fails, all end, with one message between them.

    Raises:
        FinetuneError: If the others do not come, or this machine lacks the device.
    """
    with distributed_job(wish) as device, RankWatch():
        if not distributed.is_initialized():
            yield Alone(device)
        else:
            rank, world_size = distributed.get_rank(), distributed.get_world_size()
            yield Joined(rank=rank, world_size=world_size, device=device)


def on_rank_zero(ranks: Ranks, make: Callable[[], Value]) -> Value | None:
    """Call `make` on rank 0 alone, where the value stays; where it fails, every rank says why.

    Raises:
        LocalRunError: On the other ranks, with rank 0's message.
    """
    value: Value | None = None
    failure: FinetuneError | PlannerError | None = None
    if ranks.rank == 0:
        try:
            value = make()
        except (FinetuneError, PlannerError) as error:
            failure = error
    problem = ranks.share(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    if problem is not None:
        raise LocalRunError(problem)
    return value


def from_rank_zero(ranks: Ranks, make: Callable[[], Value]) -> Value:
    """Return on every rank what `make` gives on rank 0; where it fails, every rank says why.

    Raises:
        LocalRunError: On the other ranks, with rank 0's message.
    """
    value = ranks.share(on_rank_zero(ranks, make))
    return cast(Value, value)
