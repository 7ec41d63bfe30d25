"""What a GPU has room for beside the target: the edge between a configuration and the memory count."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from planner.documents import read_document
from planner.errors import DocumentError
from serving.config import ServeConfig
from serving.engine.dovetail_head import DovetailHead
from serving.engine.head_config import HeadConfig
from serving.engine.head_folder import CONFIG, is_head_folder
from serving.engine.offload import reserve_bytes
from serving.engine.split import Offload, kv_layer_bytes_per_token
from serving.errors import ModelError


def find_offload(config: ServeConfig, *, most_rows: int, dtype: torch.dtype) -> Offload | None:
    """Return which of the target's layers go to a GPU; None where none were asked for.

    Args:
        config: What to serve.
        most_rows: Rows of the largest batch.
        dtype: Type of the target's weights on the processor, and on the GPU unless it says another.

    Raises:
        ModelError: If there is no such GPU, or a configuration cannot be read.
    """
    if config.target_gpu_layers == 0:
        return None
    device = checked_gpu(config.target_gpu_device)
    if config.target_gpu_dtype != "auto":
        dtype = getattr(torch, config.target_gpu_dtype)
    target = _read_config(config.model)
    reserved = reserve_bytes(
        most_rows=most_rows,
        hidden_size=target.hidden_size,
        intermediate_size=getattr(target, "intermediate_size", 4 * target.hidden_size),
    )
    if config.drafter == "model" and _may_share_gpu(config.draft_device, device):
        reserved += draft_bytes(config, target)
    return Offload(
        num_layers=config.target_gpu_layers,
        device=device,
        dtype=dtype,
        free_bytes=torch.cuda.mem_get_info(device)[0],
        reserved_bytes=reserved,
        kv_bytes=config.kv_bytes,
    )


def checked_gpu(name: str) -> torch.device:
    """Return a GPU by torch's name for it, with its number.

    Raises:
        ModelError: If torch sees none of that name.
    """
    remedy = "drop --target-gpu-layers, or name another --target-gpu-device"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(f"target_gpu_device {name!r} is no device; {remedy}") from None
    count = torch.cuda.device_count()
    if device.type != "cuda" or (device.index or 0) >= count:
        raise ModelError(
            f"target_gpu_device {name!r} is not here (torch {torch.__version__} sees {count} CUDA "
            f"devices); {remedy}"
        )
    return torch.device("cuda", device.index or 0)


def draft_bytes(config: ServeConfig, target: PretrainedConfig) -> int:
    """Return what the draft takes on its device: its weights twice while they are fused, and pages.

    The draft's pool has as many pages as the target's, of which there are the most where the
    processor holds all layers in the coarsest type. A head brings the target's embedding and output
    head along.
    """
    assert config.draft is not None, "called with a draft"
    dtype = torch.float32 if config.dtype == "float32" else torch.bfloat16
    of_target = target.num_hidden_layers * kv_layer_bytes_per_token(target, torch.bfloat16)
    with torch.device("meta"):
        if is_head_folder(Path(config.draft)):
            head = _read_head_config(Path(config.draft))
            num_values = sum(p.numel() for p in DovetailHead(head).parameters())
            num_values += 2 * head.vocabulary_size * head.feature_size
            row = 2 * head.num_layers * head.num_key_value_heads * head.head_size
            of_draft = row * dtype.itemsize
        else:
            draft = _read_config(config.draft)
            shell = AutoModelForCausalLM.from_config(draft)  # type: ignore[no-untyped-call]
            num_values = sum(parameter.numel() for parameter in shell.parameters())
            of_draft = draft.num_hidden_layers * kv_layer_bytes_per_token(draft, dtype)
    return int(2 * num_values * dtype.itemsize + config.kv_bytes * of_draft // of_target)


def _may_share_gpu(draft_device: str, device: torch.device) -> bool:
    kind, _, index = draft_device.partition(":")
    return draft_device == "auto" or (kind, index or "0") == (device.type, str(device.index))


def _read_head_config(folder: Path) -> HeadConfig:
    try:
        return read_document(folder / CONFIG, HeadConfig)
    except DocumentError as error:
        raise ModelError(f"{error}; name the folder of a head") from error


def _read_config(name: str) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{name}: its configuration cannot be read ({reason})") from error
    return config
