"""The LoRA adapter on a model: attached, read, written, described. The edge to PEFT."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from torch import nn
from transformers import PreTrainedModel

from finetune.aggregation import STRATEGIES
from finetune.config import JobConfig
from finetune.errors import BaseModelError
from finetune.updates import Tensors


def attach_adapter(model: PreTrainedModel, job: JobConfig) -> PeftModel:
    """Put a job's untrained adapter on `model`, in place, and freeze the rest.

    A is drawn from the job's seed, B is zero, so the model's output does not change yet. A is
    frozen too where the job's aggregation wants it.

    Raises:
        BaseModelError: If a target names no module, or one that is no linear layer, or the model
            knows no gradient checkpointing and the job wants it.
    """
    adapted = add_lora(
        model, rank=job.rank, alpha=job.alpha, target_modules=job.target_modules, seed=job.seed
    )
    if job.local_training.gradient_checkpointing:
        checkpoint_gradients(
            adapted,
            name=job.model,
            key="local_training.gradient_checkpointing",
            remedy="leave it out, or raise gradient_accumulation_steps",
        )
    if STRATEGIES[job.aggregation].is_down_frozen:
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)
    return adapted


def add_lora(
    model: PreTrainedModel, *, rank: int, alpha: float, target_modules: tuple[str, ...], seed: int
) -> PeftModel:
    """Put an untrained adapter on `model`, in place: A drawn from `seed`, B zero, the rest frozen.

    Raises:
        BaseModelError: If a target names no module, or one that is no linear layer.
    """
    check_targets(model, target_modules)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(target_modules),
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT asks transformers 5 by a name it will drop; nothing the user could change.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)
        try:
            return get_peft_model(model, config)
        except ValueError as error:
            raise BaseModelError(
                f"target_modules {list(target_modules)} do not fit the model ({error}); "
                "name linear layers"
            ) from None


def checkpoint_gradients(model: nn.Module, *, name: str, key: str, remedy: str) -> None:
    """Let a model keep each layer's input only, in place, and compute the rest again.

    Raises:
        BaseModelError: If it cannot; the message has the model's `name`, the job's `key`, `remedy`.
    """
    # transformers 5 renamed it on the way.
    enable: Any = getattr(model, "activation_checkpointing_enable", None)
    enable = enable or getattr(model, "gradient_checkpointing_enable", None)
    try:
        # The reentrant kind gives no gradients behind an input that has none: frozen embeddings.
        enable({"use_reentrant": False})
    except ValueError as error:
        raise BaseModelError(f"{key}: {name!r} cannot ({error}); {remedy}") from None


def check_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    """Check that every target names a module.

    Raises:
        BaseModelError: If one matches nothing; PEFT itself complains only if all do.
    """
    names = [name for name, module in model.named_modules() if _is_linear(module)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            known = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise BaseModelError(
                f"target_modules: {target!r} names no linear layer of the model; it has {known}"
            )


def read_tensors(model: PeftModel) -> dict[str, NDArray[np.float32]]:
    """Return a copy of the adapter by the names PEFT saves it under."""
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.items()}


def write_tensors(model: PeftModel, tensors: Tensors) -> None:
    """Set the adapter, in place, from a value that `read_tensors` returned.

    Raises:
        ValueError: If names or shapes are not the adapter's.
    """
    targets = get_peft_model_state_dict(model, save_embedding_layers=False)
    if targets.keys() != tensors.keys():
        raise ValueError("the tensors belong to another adapter")
    with torch.no_grad():
        for name, target in targets.items():
            source = torch.from_numpy(np.ascontiguousarray(tensors[name]))
            if target.shape != source.shape:
                raise ValueError(f"{name} has shape {tuple(source.shape)}")
            target.copy_(source)


def adapter_config(model: PeftModel, job: JobConfig) -> dict[str, Any]:
    """Return the content of `adapter_config.json` at the job's last rank."""
    content = peft_config(model, base=job.model)
    return content | {"r": job.last_rank, "lora_alpha": job.last_alpha}


def peft_config(model: PeftModel, *, base: str) -> dict[str, Any]:
    """Return the content of `adapter_config.json` of the adapter as it is."""
    content: dict[str, Any] = model.peft_config["default"].to_dict()
    # PEFT keeps a set, whose order would differ from run to run.
    content["target_modules"] = sorted(content["target_modules"])
    content["base_model_name_or_path"] = base
    content["inference_mode"] = True
    return content


def _is_linear(module: nn.Module) -> bool:
    # GPT-2's Conv1D is a linear layer stored the other way round; PEFT takes both.
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
