"""LoRA adapters in the engine: read from PEFT folders, applied per request in one flat batch.

Shape letters: R rank, I input width, O output width, T rows of the flat batch.

Source: Hu et al. 2021, section 4.1: h = W x + (alpha / r) B A x; rsLoRA divides by sqrt(r).
"""

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn
from transformers import PreTrainedModel

from serving.adapter_manifest import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    check_base,
    check_files,
    read_json,
    read_manifest,
)
from serving.engine.fixed_rows import FixedRowsLinear
from serving.engine.kernels import Float32Linear, PackedLinear
from serving.errors import AdapterError

Linear = nn.Linear | PackedLinear
"""What an adapter may stand on: a layer as it was loaded, or packed for the processor."""

_PREFIX = "base_model.model."


class _AdapterConfig(BaseModel):
    """What the engine needs of PEFT's `adapter_config.json`; PEFT writes many more keys."""

    model_config = ConfigDict(extra="ignore")

    peft_type: str
    r: int
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    fan_in_fan_out: bool = False
    modules_to_save: list[str] | None = None
    alpha_pattern: dict[str, float] = {}
    rank_pattern: dict[str, float] = {}
    lora_bias: bool = False
    init_lora_weights: bool | str = True
    layer_replication: list[list[int]] | None = None


class LowRank:
    """One layer's update: x goes to `scale * (x A') B'`.

    In float32 on the processor both products run through the row-invariant kernel, on other devices
    with a fixed number of rows: a plain matrix product gives a row other bits at other row counts.
    """

    def __init__(self, down_RI: Tensor, up_OR: Tensor, scale: float) -> None:
        """Take A and B in the type and on the device they are computed in."""
        self._down = _product(down_RI)
        self._up = _product(up_OR)
        self._scale = scale

    def apply(self, rows_TI: Tensor) -> Tensor:
        """Return the update of the layer's output. Shape: (..., O)."""
        update: Tensor = self._up(self._down(rows_TI))
        return update * self._scale


def _product(weight_OI: Tensor) -> nn.Module:
    height, width = weight_OI.shape
    dense = nn.Linear(width, height, bias=False, device="meta")
    dense.weight = nn.Parameter(weight_OI, requires_grad=False)
    if weight_OI.device.type != "cpu":
        return FixedRowsLinear(dense)
    if weight_OI.dtype != torch.float32:
        return dense
    packed = Float32Linear(dense)
    packed.fewest_rows = _FEWEST_ROWS
    return packed


_FEWEST_ROWS = 2
"""A lone row is padded to two, from where results stay; the start-up test checks it."""


Adapter = dict[str, LowRank]
"""Updates by module name, such as `model.layers.0.self_attn.q_proj`."""


def read_adapter(
    folder: Path, model: PreTrainedModel, *, base_sha256: Callable[[], str | None]
) -> Adapter:
    """Read a PEFT LoRA folder and check that it fits `model`.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`; a `motley.json`
            manifest, where present, must name these weights and this base model's.
        model: The base model; decides device and dtype.
        base_sha256: Returns the digest of the base weights, or None where they are no local
            files; asked only for folders with a manifest, since it reads all weights.

    Raises:
        AdapterError: If a file is missing or malformed, a feature is not supported, or a tensor
            does not fit; the message names the first misfit.
    """
    config = _read_config(folder)
    content = _read_weights(folder)
    manifest = read_manifest(folder)
    if manifest is not None:
        # Of what was read, not of the file again: it may have been replaced meanwhile.
        digest = hashlib.sha256(content).hexdigest()
        check_files(folder, manifest, rank=config.r, weights_sha256=digest)
        check_base(folder, manifest, base_sha256())
    pairs = _parse_pairs(folder, content)
    linears = adaptable_linears(model)
    # It sees the rows whose logits are wanted, not those that adapters are laid out over.
    output_head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    adapter: Adapter = {}
    for name, (down_RI, up_OR) in pairs.items():
        _check_form(folder, name, config, down_RI, up_OR)
        linear = linears.get(name)
        if linear is None:
            raise AdapterError(f"{folder}: adapts {name!r}, which this model lacks; {_REMEDY}")
        if linear is output_head:
            raise AdapterError(
                f"{folder}: adapts {name!r}, the output head, which is not supported; train one "
                "that leaves it out"
            )
        rank = down_RI.shape[0]
        expected = ((rank, linear.in_features), (linear.out_features, rank))
        found = (tuple(down_RI.shape), tuple(up_OR.shape))
        if found != expected:
            raise AdapterError(
                f"{folder}: shapes of {name!r} are {found}, the model needs {expected}; {_REMEDY}"
            )
        alpha = _by_pattern(config.alpha_pattern, name, config.lora_alpha)
        scale = alpha / (math.sqrt(rank) if config.use_rslora else rank)
        weight = linear.weight
        down_RI, up_OR = down_RI.to(weight), up_OR.to(weight)
        _check_magnitude(folder, name, down_RI, up_OR, scale)
        adapter[name] = LowRank(down_RI, up_OR, scale)
    return adapter


_REMEDY = "load an adapter made for this base model"

_NUMBER_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""What an adapter's file may hold; each is cast to the base model's type."""


def _check_form(
    folder: Path, name: str, config: _AdapterConfig, down_RI: Tensor, up_OR: Tensor
) -> None:
    rank = int(_by_pattern(config.rank_pattern, name, config.r))
    if down_RI.shape[0] != rank or rank < 1:
        raise AdapterError(
            f"{folder}: {name!r} has rank {down_RI.shape[0]}, its configuration says {rank}; "
            "export it again"
        )
    wrong = next((t.dtype for t in (down_RI, up_OR) if t.dtype not in _NUMBER_TYPES), None)
    if wrong is not None:
        raise AdapterError(
            f"{folder}: {name!r} holds {_word(wrong)}; export it as "
            f"{', '.join(map(_word, _NUMBER_TYPES))}"
        )


def _check_magnitude(folder: Path, name: str, down_RI: Tensor, up_OR: Tensor, scale: float) -> None:
    """Refuse an update whose own product overflows in the type it is computed in."""
    largest = float(down_RI.abs().max()) * float(up_OR.abs().max())
    # Bounds every entry of scale * B A; NaN and infinity, from the file or the cast, fail too.
    bound = abs(scale) * down_RI.shape[0] * largest
    if not bound <= torch.finfo(down_RI.dtype).max:
        raise AdapterError(
            f"{folder}: {name!r} is not finite in {_word(down_RI.dtype)} (scale {scale:.3g}, "
            f"largest product {largest:.3g}); train it again"
        )


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _read_config(folder: Path) -> _AdapterConfig:
    try:
        is_folder = folder.is_dir()
    except (OSError, ValueError) as error:
        raise AdapterError(f"{str(folder)[:80]}: is no path ({error})"[:200]) from None
    if not is_folder:
        raise AdapterError(
            f"{str(folder)[:200]}: no such adapter folder; give the path of a PEFT folder"
        )
    config = read_json(folder / CONFIG_FILE, _AdapterConfig)
    unsupported = {
        f"peft_type {config.peft_type}": config.peft_type != "LORA",
        "DoRA": config.use_dora,
        f"bias {config.bias!r}": config.bias != "none" or config.lora_bias,
        "fan_in_fan_out": config.fan_in_fan_out,
        "modules_to_save": bool(config.modules_to_save),
        "layer_replication": bool(config.layer_replication),
        f"initialisation {config.init_lora_weights!r}": _changes_base(config.init_lora_weights),
    }
    for feature, is_used in unsupported.items():
        if is_used:
            raise AdapterError(f"{folder}: uses {feature}; only plain LoRA can be served")
    return config


def _changes_base(initialisation: bool | str) -> bool:
    """Whether PEFT changed the base weights when it made the adapter, as PiSSA and others do."""
    changing = ("pissa", "olora", "corda", "loftq")
    return isinstance(initialisation, str) and initialisation.lower().startswith(changing)


def _read_weights(folder: Path) -> bytes:
    path = folder / WEIGHTS_FILE
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; only safetensors adapters load") from None
    except OSError as error:
        raise AdapterError(
            f"{path}: cannot be read ({error.strerror}); export the adapter again"
        ) from None


def _parse_pairs(folder: Path, content: bytes) -> dict[str, tuple[Tensor, Tensor]]:
    path = folder / WEIGHTS_FILE
    try:
        tensors = load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a number type it has no name for
        raise AdapterError(f"{path}: cannot be read ({error}); export it again") from None
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, half = key.removeprefix(_PREFIX).removesuffix(".weight").rpartition(".")
        if half not in ("lora_A", "lora_B"):
            raise AdapterError(f"{path}: holds {key!r}; only LoRA A and B matrices load")
        halves.setdefault(name, {})[half] = tensor
    for name, found in halves.items():
        if len(found) != 2 or any(tensor.ndim != 2 for tensor in found.values()):
            raise AdapterError(f"{path}: {name!r} lacks a pair of matrices; export it again")
    if not halves:
        raise AdapterError(f"{path}: holds no matrices; export it again")
    return {name: (found["lora_A"], found["lora_B"]) for name, found in halves.items()}


def _by_pattern(pattern: dict[str, float], name: str, default: float) -> float:
    """Return a module's value; pattern keys match as in PEFT, a suffix that starts at a dot.

    Keys come from whoever sends an adapter, and an expression can take for ever to match: they may
    be names, whole or what follows any beginning.
    """
    for key, value in pattern.items():
        if not _PATTERN_KEY.fullmatch(key):
            raise AdapterError(
                f"pattern {key[:80]!r} of the adapter is no module's name; write names, with `.*` "
                "at the beginning at most"
            )
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return default


_PATTERN_KEY = re.compile(r"\^?(?:\.\*)?(?:\w|\.|\\\.)+\$?")


@dataclass(slots=True)
class AdapterRows:
    """Which rows of the current flat batch use which adapter; set before each forward."""

    rows: list[tuple[slice, Adapter]]


class AdaptedLinear(nn.Module):
    """A linear layer that adds each row's own adapter to the shared base product."""

    def __init__(self, base: Linear, name: str, current: AdapterRows) -> None:
        """Wrap `base`, known to adapters as `name`; `current` is shared by all layers."""
        super().__init__()
        self.base = base
        self._name = name
        self._current = current

    def forward(self, hidden: Tensor) -> Tensor:
        """Return base product plus low-rank products. Shape: (1, T, I) to (1, T, O)."""
        output: Tensor = self.base(hidden)
        self.add_updates(hidden[0], output[0])
        return output

    def add_updates(self, rows_TI: Tensor, output_TO: Tensor, columns: slice = slice(None)) -> None:
        """Add each row's own low-rank product to these columns of `output_TO`, in place."""
        for rows, adapter in self._current.rows:
            update = adapter.get(self._name)
            if update is not None:
                output_TO[rows, columns] += update.apply(rows_TI[rows])


def adaptable_linears(model: nn.Module) -> dict[str, Linear]:
    """Return the linear layers of `model` by the name adapters know, wrapped ones included."""
    linears: dict[str, Linear] = {}
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            linears[name] = module.base
        elif isinstance(module, nn.Linear | PackedLinear) and not name.endswith(".base"):
            linears[name] = module
    return linears
