"""An adapter folder squeezed into another folder: `motley finetune squeeze` without its words."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from finetune.adapters import digest, write_adapter
from finetune.errors import AdapterFolderError
from finetune.factors import Factors, Scaling, paired
from finetune.low_rank import difference_norm, frobenius_norm
from finetune.peft_folder import PeftFolder, config_of, file_bytes, read_peft_folder
from finetune.rank_choice import Choice, within_bytes
from finetune.squeeze import flattened, squeeze


@dataclass(frozen=True, slots=True)
class SqueezedModule:
    """One module before and after.

    Attributes:
        name: As PEFT saves it.
        rank_before: Its rank in the folder read.
        rank_after: Its rank in the folder written.
        norm: Frobenius norm of the product before.
        error: Frobenius norm of what the product lost, rounding to the file's type included.
        bytes_before: Length of both factors' values.
        bytes_after: Likewise.
    """

    name: str
    rank_before: int
    rank_after: int
    norm: float
    error: float
    bytes_before: int
    bytes_after: int


def squeeze_folder(
    folder: Path,
    output: Path,
    *,
    choose: Choice | int,
    is_flat: bool = False,
    on_count: Callable[[int], None] = lambda count: None,
    on_module: Callable[[], None] = lambda: None,
) -> list[SqueezedModule]:
    """Write an adapter folder at lower ranks and return what became of each module.

    Args:
        folder: An adapter folder of PEFT's form, with or without a manifest.
        output: Folder to write; must not exist.
        choose: Chooses the ranks; or the most bytes that the weights' file may have.
        is_flat: Write one rank and one alpha for all modules.
        on_count: Told the number of modules.
        on_module: Told after each.

    Raises:
        AdapterFolderError: If the folder cannot be read, squeezed so far, or written.
        DocumentError: If its configuration or manifest is malformed.
    """
    if output.exists():
        raise AdapterFolderError(output, "exists already; choose another with --output")
    if not output.parent.is_dir():
        raise AdapterFolderError(output, "lies in no folder; make it, or choose another --output")
    source = read_peft_folder(folder)
    on_count(len(source.adapter.modules))
    if isinstance(choose, int):
        choose = _file_within(source, choose, is_uniform=is_flat)
    try:
        result = squeeze(source.adapter, choose, watch=on_module)
        result = flattened(result) if is_flat else result
        config, scaling = config_of(result, source.config)
    except ValueError as error:
        raise AdapterFolderError(folder, str(error)) from None
    tensors = source.as_saved(result)
    weights = file_bytes(tensors)
    manifest = source.manifest and source.manifest.model_copy(
        update={
            "adapter_sha256": digest(weights),
            "rank": scaling.rank,
            "alpha": scaling.alpha,
            "squeezed_from": source.manifest.adapter_sha256,
            "clients": (),  # nobody judged this one
        }
    )
    write_adapter(output, config=config, weights=weights, manifest=manifest)
    return _compared(source, tensors, scaling)


def _file_within(source: PeftFolder, most_bytes: int, *, is_uniform: bool) -> Choice:
    """Return the choice that keeps the weights' file within `most_bytes`, header included."""
    tensors, others = source.as_saved(source.adapter), source.others
    factors_bytes = sum(_length(t) for name, t in tensors.items() if name not in others)
    return within_bytes(
        most_bytes,
        value_bytes=max(t.element_size() for name, t in tensors.items() if name not in others),
        # Lower ranks and nearer offsets have no more digits: the header can only get shorter.
        other_bytes=len(file_bytes(tensors)) - factors_bytes,
        is_uniform=is_uniform,
    )


def _compared(
    source: PeftFolder, tensors: Mapping[str, torch.Tensor], scaling: Scaling
) -> list[SqueezedModule]:
    """Return each module as it was and as it was written."""
    arrays: dict[str, NDArray[np.float32]] = {
        name: tensor.to(torch.float32).numpy() for name, tensor in tensors.items()
    }
    after = paired(arrays, scaling)

    def row(name: str, old: Factors, new: Factors) -> SqueezedModule:
        width = tensors[f"{name}.lora_A.weight"].element_size()
        return SqueezedModule(
            name,
            old.rank,
            new.rank,
            norm=frobenius_norm(old),
            error=difference_norm(old, new),
            bytes_before=width * (old.up_MR.size + old.down_RN.size),
            bytes_after=width * (new.up_MR.size + new.down_RN.size),
        )

    return [row(name, old, after.modules[name]) for name, old in source.adapter.modules.items()]


def _length(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
