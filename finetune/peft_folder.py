"""PEFT's two files read as low-rank modules, and the configuration of a squeezed copy written."""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from finetune.adapters import CONFIG_FILE, MANIFEST_FILE, WEIGHTS_FILE, Manifest, read_adapter
from finetune.errors import AdapterFolderError
from finetune.factors import Adapter, Scaling, paired, pattern_name, unpaired
from planner.documents import read_content, validated

logger = logging.getLogger(__name__)


class _PeftConfig(BaseModel):
    """What the factors' meaning hangs on; the rest of the file passes through unread."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    peft_type: Literal["LORA"]
    r: int = Field(gt=0)
    lora_alpha: float = Field(gt=0)
    use_rslora: bool = False
    rank_pattern: dict[str, int] = {}
    alpha_pattern: dict[str, float] = {}
    use_dora: Literal[False] = False
    lora_bias: Literal[False] = False
    bias: Literal["none"] = "none"
    init_lora_weights: bool | Literal["gaussian", "orthogonal", "eva"] = True
    """Others, such as PiSSA's, change the base model by the rank they are loaded with."""

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _none_is_empty(cls, value: object) -> object:
        return {} if value is None else value

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _sound(cls, pattern: dict[str, float]) -> dict[str, float]:
        for key, value in pattern.items():
            if not value > 0:
                raise ValueError(f"{key!r} has {value}; only numbers above 0 are ranks or alphas")
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(f"{key!r} is no pattern ({error})") from None
        return pattern


@dataclass(frozen=True, slots=True)
class PeftFolder:
    """An adapter folder, read.

    Attributes:
        folder: Where it is.
        config: Content of `adapter_config.json`.
        adapter: The factors, float32, paired; without what is no factor.
        dtypes: The type of each tensor in the file.
        others: What is no factor, such as the weights of a head, as the file has it.
        manifest: Content of `motley.json`, None where there is none.
    """

    folder: Path
    config: dict[str, Any]
    adapter: Adapter
    dtypes: Mapping[str, torch.dtype]
    others: Mapping[str, torch.Tensor]
    manifest: Manifest | None

    def as_saved(self, adapter: Adapter) -> dict[str, torch.Tensor]:
        """Return an adapter made of this one's in the types the file had, the others untouched."""
        rounded = {
            name: torch.from_numpy(np.ascontiguousarray(tensor)).to(self.dtypes[name])
            for name, tensor in unpaired(adapter).items()
        }
        return rounded | dict(self.others)


def read_peft_folder(folder: Path) -> PeftFolder:
    """Read a folder that PEFT or `motley finetune run` wrote.

    Raises:
        AdapterFolderError: If a file is missing or damaged, or it is another kind of adapter.
        DocumentError: If the configuration or the manifest is malformed.
    """
    if not folder.is_dir():
        raise AdapterFolderError(folder, "no such folder; name an adapter's folder")
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise AdapterFolderError(folder, f"holds no {name}; name an adapter's folder")
    manifest = read_adapter(folder) if (folder / MANIFEST_FILE).exists() else None
    if manifest is None:
        logger.warning("adapter has no manifest, its copy gets none folder=%s", folder)
    content = read_content(folder / CONFIG_FILE)
    config = validated(folder / CONFIG_FILE, content, _PeftConfig)
    scaling = Scaling(
        config.r,
        config.lora_alpha,
        config.use_rslora,
        config.rank_pattern,
        config.alpha_pattern,
    )
    try:
        loaded = load_file(folder / WEIGHTS_FILE)
        adapter = paired({name: _array(folder, name, t) for name, t in loaded.items()}, scaling)
    except (SafetensorError, OSError) as error:
        raise AdapterFolderError(
            folder, f"{WEIGHTS_FILE} cannot be read ({error}); copy it anew"
        ) from None
    except ValueError as error:
        raise AdapterFolderError(folder, f"{WEIGHTS_FILE}: {error}") from None
    if not adapter.modules:
        raise AdapterFolderError(folder, f"{WEIGHTS_FILE} holds no LoRA factors")
    dtypes = {name: tensor.dtype for name, tensor in loaded.items()}
    others = {name: loaded[name] for name in adapter.others}
    return PeftFolder(folder, content, Adapter(adapter.modules, {}), dtypes, others, manifest)


def file_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Return the content of `adapter_model.safetensors`."""
    data: bytes = save(dict(tensors), metadata={"format": "pt"})
    return data


def config_of(adapter: Adapter, config: Mapping[str, Any]) -> tuple[dict[str, Any], Scaling]:
    """Return `adapter_config.json` for an adapter's ranks and scales, and what PEFT will make of it.

    rsLoRA is off: with patterns its meaning is disputed. `r` is the largest rank, so that engines
    which bound it see what they get.

    Args:
        adapter: The modules to be described.
        config: The file they come from; what does not concern ranks stays.

    Raises:
        ValueError: If a module's name ends another's, so that patterns cannot tell them apart.
    """
    rank = max(factors.rank for factors in adapter.modules.values())
    alphas = {name: factors.scale * factors.rank for name, factors in adapter.modules.items()}
    common = Counter(alphas[name] for name, f in adapter.modules.items() if f.rank == rank)
    ((alpha, _),) = common.most_common(1)
    scaling = Scaling(
        rank,
        alpha,
        rank_pattern={
            pattern_name(name): factors.rank
            for name, factors in sorted(adapter.modules.items())
            if factors.rank != rank
        },
        alpha_pattern={
            pattern_name(name): value for name, value in sorted(alphas.items()) if value != alpha
        },
    )
    for name, factors in adapter.modules.items():
        told = (scaling.rank_of(name), scaling.scale_of(name))
        if told[0] != factors.rank or not np.isclose(told[1], factors.scale, rtol=1e-12):
            raise ValueError(f"{name} ends like another module's name; give every module one rank")
    return {
        **config,
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "rank_pattern": dict(scaling.rank_pattern),
        "alpha_pattern": dict(scaling.alpha_pattern),
    }, scaling


def _array(folder: Path, name: str, tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.to(torch.float32).numpy()
    if not np.isfinite(array).all():
        raise AdapterFolderError(folder, f"{name} holds NaN or infinity; train it anew")
    return array
