"""The network of a local run: loaded, with its adapter, and its trained weights as whole tensors."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from finetune.base_model import BaseModel, check_length
from finetune.local_runs.local_job import LocalJob
from finetune.lora import add_lora, checkpoint_gradients


def trained_model(base: BaseModel, job: LocalJob) -> nn.Module:
    """Return the network as the job trains it; the base model's own is changed in place.

    Raises:
        BaseModelError: If it takes no sequences so long, no such adapter or no checkpointing.
    """
    check_length(base, job.max_tokens, key="max_tokens", name=job.model)
    model: nn.Module = base.model
    if job.adapter is not None:
        model = add_lora(
            base.model,
            rank=job.adapter.rank,
            alpha=job.adapter.alpha,
            target_modules=job.adapter.target_modules,
            seed=job.seed,
        )
    if job.gradient_checkpointing:
        checkpoint_gradients(
            model, name=job.model, key="gradient_checkpointing", remedy="leave it out"
        )
    return model


def trained_weights(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Give name and tensor of what is trained, in the model's order."""
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield name, weight


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which ranks may hold shares, whole on the CPU; all ranks must call."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def spread_as(full: Tensor, pattern: Tensor) -> Tensor:
    """Return a whole tensor, equal on all ranks, cut and placed as `pattern` is."""
    if isinstance(pattern, DTensor):
        # Everybody has the whole: nothing has to be sent.
        return distribute_tensor(
            full.to(pattern.device), pattern.device_mesh, pattern.placements, src_data_rank=None
        )
    return full.to(pattern.device)


@torch.no_grad()
def set_weight(weight: nn.Parameter, full: Tensor) -> None:
    """Overwrite a weight, in place, by a whole tensor that is equal on all ranks."""
    weight.copy_(spread_as(full, weight))
