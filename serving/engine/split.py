"""One decoder over two devices: the embedding and the first layers on a GPU, the rest on the CPU.

Token ids, positions' rotations and, once a forward, the hidden state behind the last GPU layer are
all that crosses. The library that spreads transformers' models over devices (accelerate, whose hooks
follow a `device_map`) copies every argument of every layer instead, and keeps one type of weights on
all devices; here the GPU's part may be narrower than the processor's.

Positions are kept, and rotations computed, on the processor in its own type: rounded to a 16-bit type
they would be another model's in the layers behind.
"""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from serving.engine.fixed_rows import FixedRowsLinear
from serving.engine.offload import LayerCount, OffloadSizes, decide_layers
from serving.engine.transfer import download, upload
from serving.errors import ModelError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offload:
    """Which part of a model goes to a GPU."""

    num_layers: LayerCount
    """First decoder layers, or as many as fit."""
    device: torch.device
    dtype: torch.dtype
    """Type of weights, activations and keys and values there."""
    free_bytes: int
    """Free memory there."""
    reserved_bytes: int
    """What of it others need."""
    kv_bytes: int
    """Memory for keys and values of all layers, on both devices."""


def kv_layer_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Return what one cached token takes in one layer, in bytes."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * heads * size * dtype.itemsize)


def offload_layers(model: PreTrainedModel, offload: Offload, name: str) -> "Split | None":
    """Move the first layers of a loaded model; None where none fit.

    Args:
        model: A decoder on the processor, its linears not yet packed; changed in place.
        offload: What to move, and where to.
        name: The model's, for messages.

    Raises:
        ModelError: If it has no layers that can be told apart, has fewer than asked for, or they do
            not fit.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ModelError(
            f"{name}: the layers of {model.config.model_type} models cannot be split; drop "
            "--target-gpu-layers"
        )
    sizes = OffloadSizes(
        embedding_bytes=_num_values(model.get_input_embeddings()) * offload.dtype.itemsize,
        layer_bytes=tuple(_num_values(layer) * offload.dtype.itemsize for layer in layers),
        gpu_kv_bytes_per_token=kv_layer_bytes_per_token(model.config, offload.dtype),
        cpu_kv_bytes_per_token=kv_layer_bytes_per_token(model.config, model.dtype),
        kv_bytes=offload.kv_bytes,
    )
    num_layers = decide_layers(
        offload.num_layers,
        sizes,
        free_bytes=offload.free_bytes,
        reserved_bytes=offload.reserved_bytes,
        name=name,
    )
    logger.log(
        logging.INFO if num_layers else logging.WARNING,
        "offload layers=%d of=%d device=%s dtype=%s bytes=%d free_bytes=%d reserved_bytes=%d",
        num_layers,
        len(layers),
        offload.device,
        str(offload.dtype).removeprefix("torch."),
        sizes.gpu_bytes(num_layers),
        offload.free_bytes,
        offload.reserved_bytes,
    )
    return Split(model, num_layers, offload.device, offload.dtype) if num_layers else None


def _num_values(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class Split:
    """The embedding and first layers of a model on another device than the rest.

    Hooks at the edges move what crosses; between them the model's own forward runs as ever.
    """

    def __init__(
        self, model: PreTrainedModel, num_layers: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        """Move the layers, at least one, and set the hooks."""
        self.num_layers = num_layers
        self.device = device
        self.dtype = dtype
        self._host_dtype = model.dtype
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}
        decoder: Any = model.base_model
        embedding: Any = model.get_input_embeddings()
        # The output head may share the weight, and stays.
        embedding.weight = nn.Parameter(embedding.weight.detach(), requires_grad=False)
        embedding.to(device, dtype)
        embedding.register_forward_pre_hook(self._before_embedding)
        for child_name, child in decoder.named_children():
            if "rotary" in child_name:
                child.register_forward_pre_hook(self._before_rotations, with_kwargs=True)
        self._layers = list(decoder.layers[:num_layers])
        for layer in self._layers:
            _fix_rows(layer.to(device, dtype))
            layer.register_forward_pre_hook(self._before_layer, with_kwargs=True)
        self._layers[-1].register_forward_hook(self._after_last)

    def kv_bytes_per_token(self, config: PretrainedConfig) -> int:
        """Return what a cached token takes over all layers, on both devices."""
        on_gpu = self.num_layers * kv_layer_bytes_per_token(config, self.dtype)
        num_others = int(config.num_hidden_layers) - self.num_layers
        return on_gpu + num_others * kv_layer_bytes_per_token(config, self._host_dtype)

    def _before_embedding(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        self._moved.clear()
        return (upload(inputs[0], self.device),)

    def _before_rotations(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let rotations be computed where the positions are: the state gives device and type only."""
        state = torch.empty(0, dtype=self._host_dtype)
        if inputs:
            return (state, *inputs[1:]), named
        return inputs, named | {"x": state}

    def _before_layer(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return inputs, {key: self._up(value) for key, value in named.items()}

    def _after_last(self, module: nn.Module, inputs: object, output: Any) -> Any:
        if isinstance(output, Tensor):
            return download(output).to(self._host_dtype)
        return (download(output[0]).to(self._host_dtype), *output[1:])

    def _up(self, value: Any) -> Any:
        """Return what a layer is given, moved once for all layers."""
        if isinstance(value, tuple):
            return tuple(self._up(item) for item in value)
        if not isinstance(value, Tensor):
            return value
        # The source is kept beside its copy, so that no other tensor can take its identity.
        found = self._moved.get(id(value))
        if found is None:
            moved = upload(value, self.device)
            if value.is_floating_point():
                moved = moved.to(self.dtype)
            found = self._moved[id(value)] = value, moved
        return found[1]


def _fix_rows(layer: nn.Module) -> None:
    """Let products of the layer have one shape whatever the batch."""
    for name, module in list(layer.named_modules()):
        if type(module) is nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(layer.get_submodule(parent), child, FixedRowsLinear(module))
