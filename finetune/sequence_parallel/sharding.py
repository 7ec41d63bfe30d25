"""What of the model each rank holds: all of it, or its part of every layer (FSDP2, as ZeRO-3)."""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune.errors import SequenceParallelError

Sharding = Literal["replicated", "fsdp2"]
"""Every rank holds the whole model, or a part of each of its tensors."""

_BUCKET_NUMBERS = 1 << 24
"""Gradients are added up in pieces of about so many numbers: what is held twice is bounded."""


def shard(model: nn.Module, *, device: torch.device, in_bfloat16: bool) -> None:
    """Cut every tensor over all ranks, in place; gradients will be sums over ranks.

    Raises:
        SequenceParallelError: If the model has no layers to gather one by one.
    """
    layers = [part for part in model.modules() if isinstance(part, GradientCheckpointingLayer)]
    if not layers:
        raise SequenceParallelError(
            f"sharding: fsdp2, and {type(model).__name__} has no layers that transformers marks; "
            "take replicated"
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy()
    if in_bfloat16:
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for part in [*layers, model]:
        sharded = fully_shard(part, mesh=mesh, mp_policy=policy)
        # The loss is divided by the targets of the whole batch: what is wanted of ranks is the sum.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        # An expert may see tokens on some ranks only.
        if hasattr(sharded, "set_reduce_scatter_unused_params"):  # torch 2.13
            sharded.set_reduce_scatter_unused_params(True, recurse=False)


def take_first_ranks(weights: list[nn.Parameter], *, device: torch.device) -> None:
    """Give every rank the values that rank 0 has, in place; before anything is sharded."""
    with torch.no_grad():
        for weight in weights:
            values = weight.detach().to(device)
            dist.broadcast(values, src=0)
            weight.copy_(values)


def add_up_gradients(weights: list[nn.Parameter]) -> None:
    """Make every rank's gradients the sum over all ranks, in place.

    A rank on which a weight took no part adds zeros. One that took part on no rank, such as an
    expert without a token, stays without a gradient, as in one process.
    """
    weights = _taking_part(weights)
    bucket: list[Tensor] = []
    for position, weight in enumerate(weights):
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        bucket.append(weight.grad)
        is_full = sum(part.numel() for part in bucket) >= _BUCKET_NUMBERS
        is_last = position + 1 == len(weights) or weights[position + 1].dtype != weight.dtype
        if is_full or is_last:
            _add_up(bucket)
            bucket = []


def _taking_part(weights: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return, alike on all ranks, the weights that have a gradient on one of them."""
    device = next((weight.device for weight in weights), None)
    have = torch.tensor([w.grad is not None for w in weights], dtype=torch.int32, device=device)
    dist.all_reduce(have, op=dist.ReduceOp.MAX)
    return [weight for weight, has in zip(weights, have.tolist(), strict=True) if has]


def _add_up(parts: list[Tensor]) -> None:
    flat = torch.cat([part.flatten() for part in parts])
    dist.all_reduce(flat)
    sums = torch.split(flat, [part.numel() for part in parts])
    for part, total in zip(parts, sums, strict=True):
        part.copy_(total.view_as(part))
