"""LoRA modules as pairs of factors with their scale; an adapter's tensors paired by name.

A module adds `scale * up @ down` to its layer's weight. A and B are told apart by the names PEFT
saves them under, never by shape: where the layer is as narrow as the rank, shapes do not tell.
GPT-2's Conv1D stores its weight inputs first, but PEFT saves its factors like every other layer's,
so the product is (out, in) everywhere; only a merge into the layer's weight turns it round.

Shape suffixes: M outputs of a layer, N inputs, R rank.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from finetune.updates import Tensors

DOWN_SUFFIX = ".lora_A.weight"
UP_SUFFIX = ".lora_B.weight"
_PREFIX = "base_model.model."
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Factors:
    """One LoRA module.

    Attributes:
        up_MR: LoRA's B.
        down_RN: LoRA's A.
        scale: Of their product: alpha / rank, or alpha / sqrt(rank) under rsLoRA.
    """

    up_MR: NDArray[np.floating[Any]]
    down_RN: NDArray[np.floating[Any]]
    scale: float

    @property
    def rank(self) -> int:
        """Columns of the one factor, rows of the other."""
        return len(self.down_RN)

    def padded(self, rank: int, *, scale: float) -> "Factors":
        """Return the same product at a larger rank and another scale, which B takes up.

        Raises:
            ValueError: If `rank` is below the present one, or `scale` is not positive.
        """
        if rank < self.rank:
            raise ValueError(f"rank {self.rank} does not fit in {rank}; squeeze it instead")
        _check_scale(scale)
        more = rank - self.rank
        up_MR = np.asarray(self.up_MR, np.float64) * (self.scale / scale)
        up_MR = np.pad(up_MR, ((0, 0), (0, more)))
        return Factors(up_MR, np.pad(self.down_RN, ((0, more), (0, 0))), scale)


@dataclass(frozen=True, slots=True)
class Scaling:
    """What PEFT's configuration says of ranks and scales.

    Attributes:
        rank: `r`, of modules that `rank_pattern` does not match.
        alpha: `lora_alpha`, likewise.
        is_rank_stabilised: `use_rslora`: the scale is alpha / sqrt(rank).
        rank_pattern: Ranks by the ending of a module's name; the first that matches counts.
        alpha_pattern: Alphas, likewise.
    """

    rank: int
    alpha: float
    is_rank_stabilised: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """Return a module's rank."""
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the scale of a module's product."""
        rank = self.rank_of(module)
        alpha = _by_pattern(self.alpha_pattern, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter's tensors, paired.

    Attributes:
        modules: Factors by the name of the module, as PEFT saves it.
        others: What is no factor, such as the weights of a head.
    """

    modules: Mapping[str, Factors]
    others: Tensors


def paired(tensors: Tensors, scaling: Scaling) -> Adapter:
    """Return an adapter's tensors as factors.

    Raises:
        ValueError: If a factor lacks its other half, the halves' ranks differ from each other or
            from `scaling`, or a tensor belongs to another kind of adapter than plain LoRA.
    """
    names = sorted(name.removesuffix(DOWN_SUFFIX) for name in tensors if is_down(name))
    modules = {name: _pair(name, tensors, scaling) for name in names}
    halves = {name + suffix for name in modules for suffix in (DOWN_SUFFIX, UP_SUFFIX)}
    others = {name: tensor for name, tensor in tensors.items() if name not in halves}
    for name in others:
        if ".lora_" in name:
            raise ValueError(f"{name} is no half of a plain LoRA pair; only such can be read")
    return Adapter(modules, others)


def unpaired(adapter: Adapter) -> dict[str, NDArray[np.float32]]:
    """Return the tensors in float32; the scales are the configuration's to say."""
    tensors = dict(adapter.others)
    for name, factors in adapter.modules.items():
        tensors[name + DOWN_SUFFIX] = np.ascontiguousarray(factors.down_RN, np.float32)
        tensors[name + UP_SUFFIX] = np.ascontiguousarray(factors.up_MR, np.float32)
    return tensors


def common_rank(tensors: Tensors) -> int:
    """Return the rank of the first module: of all, in an adapter that a job trains; 1 without any."""
    return next((len(tensor) for name, tensor in sorted(tensors.items()) if is_down(name)), 1)


def resized(tensors: Tensors, rank: int) -> dict[str, NDArray[np.float32]]:
    """Return the tensors with every module's components cut to, or filled with zeros up to, `rank`.

    At one scale zeros change no product, and their gradients are zero too.
    """
    return {name: _with_components(name, tensor, rank) for name, tensor in tensors.items()}


def is_down(tensor_name: str) -> bool:
    """Return whether a tensor is LoRA's A."""
    return tensor_name.endswith(DOWN_SUFFIX)


def pattern_name(module: str) -> str:
    """Return a module's name as `rank_pattern` and `alpha_pattern` know it."""
    return module.removeprefix(_PREFIX)


def _pair(name: str, tensors: Tensors, scaling: Scaling) -> Factors:
    down_RN, up_MR = tensors[name + DOWN_SUFFIX], tensors.get(name + UP_SUFFIX)
    if up_MR is None:
        raise ValueError(f"{name} has lora_A but no lora_B; both are needed")
    rank = scaling.rank_of(name)
    if down_RN.ndim != 2 or up_MR.ndim != 2 or not down_RN.shape[0] == up_MR.shape[1] == rank:
        raise ValueError(
            f"{name} has lora_A {down_RN.shape} and lora_B {up_MR.shape}, not rank {rank} in both"
        )
    return Factors(up_MR, down_RN, scaling.scale_of(name))


def _with_components(name: str, tensor: NDArray[np.float32], rank: int) -> NDArray[np.float32]:
    if name.endswith(UP_SUFFIX):
        return np.pad(tensor[:, :rank], ((0, 0), (0, max(0, rank - tensor.shape[1]))))
    if is_down(name):
        return np.pad(tensor[:rank], ((0, max(0, rank - len(tensor))), (0, 0)))
    return tensor


def _by_pattern(pattern: Mapping[str, _Value], module: str, default: _Value) -> _Value:
    """Return the first value whose key ends the module's name, as PEFT reads its patterns."""
    name = pattern_name(module)
    for key, value in pattern.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


def _check_scale(scale: float) -> None:
    if not scale > 0:
        raise ValueError(f"scale {scale} is not positive; give alpha above 0")
