"""A Llama-like decoder in few, large operations, over the rows of many sequences.

A step of few rows through a small model costs the number of operations and of Python's calls rather
than their size. Here queries, keys and values are one tensor, rotations come from a table, and nothing
runs but what the layers need. Targets and drafts that are Llamas of the plain kind take this path;
all others run as transformers does, over the same attention.

Shape letters: T rows of the batch, N rows whose logits are wanted, V vocabulary, E hidden size,
H query heads, G key-value heads, D head size.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

from serving.engine.flat_attention import attend_rows
from serving.engine.lean_layer import (
    FusedProduct,
    LeanLayer,
    ModuleProduct,
    Product,
    fused_layer,
    module_layer,
)
from serving.engine.rotations import RotationTable
from serving.engine.rows import FlatRows, Rows, lay_flat
from serving.engine.transfer import upload

logger = logging.getLogger(__name__)

_FAMILIES = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)
_FIXED_ROTATIONS = ("default", "linear", "llama3", "yarn")
"""Kinds whose angles depend on the position alone, and not on the longest one seen."""


class LeanDecoder:
    """Runs the weights of a transformers decoder for which `is_supported` holds."""

    def __init__(self, model: PreTrainedModel, *, is_fused: bool = False) -> None:
        """Take the modules of `model` as they are now.

        Args:
            model: The decoder.
            is_fused: Compute with fused copies of the dense weights; modules that are replaced
                later, by packed or adapted ones, then count for nothing.
        """
        decoder: Any = model.base_model
        config: Any = model.config
        attention = decoder.layers[0].self_attn
        self._embedding: Tensor = decoder.embed_tokens.weight.detach()
        self._epsilon = float(decoder.norm.variance_epsilon)
        self._head_size = int(attention.head_dim)
        self._num_heads = int(config.num_attention_heads)
        self._num_rotated = self._num_heads + int(config.num_key_value_heads)
        self._intermediate_size = int(config.intermediate_size)
        self._scaling = float(attention.scaling)
        self._rotations = RotationTable(decoder.rotary_emb, self._embedding)
        self.context_tokens = int(config.max_position_embeddings)
        head: Any = model.lm_head
        self._final_norm: Tensor | None = None
        self._layers: list[LeanLayer]
        self._head: Product
        if is_fused:
            self._layers = [fused_layer(layer) for layer in decoder.layers]
            self._head = FusedProduct([head], decoder.norm.weight)
        else:
            self._final_norm = decoder.norm.weight.detach()
            self._layers = [module_layer(layer) for layer in decoder.layers]
            self._head = ModuleProduct([head])

    @torch.inference_mode()
    def forward(self, batch: Sequence[Rows], ids_T: Tensor | None = None) -> Tensor:
        """Return logits of the wanted rows, as `FlatModel.forward` does. Shape: (N, V)."""
        return self.run(lay_flat(batch), ids_T)[0]

    def run(self, flat: FlatRows, ids_T: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return logits of the wanted rows, and every row's state behind the last layer.

        Shapes: (N, V), (T, E). The final norm is still to be applied to the states: `features`.
        """
        device = self._embedding.device
        ids_T = upload(flat.tokens, device) if ids_T is None else ids_T
        rotation = self._rotations.of(flat.positions)
        hidden_TE = functional.embedding(ids_T, self._embedding)
        for number, layer in enumerate(self._layers):
            hidden_TE = self._attend(number, layer, hidden_TE, rotation, flat)
            rows_TE = self._normalise(hidden_TE, layer.feed_forward_norm)
            hidden_TE = layer.down.added(hidden_TE, gated(layer.gate_up(rows_TE)))
        wanted_NE = hidden_TE
        if not flat.wants_all:
            wanted_NE = hidden_TE.index_select(0, upload(flat.wanted, device))
        return self._head(self.features(wanted_NE)), hidden_TE

    def features(self, hidden_TE: Tensor) -> Tensor:
        """Return states behind the final norm, as a draft head reads them. Shape: (T, E)."""
        return self._normalise(hidden_TE, self._final_norm)

    @property
    def row_functions(self) -> dict[str, tuple[Callable[[Tensor], Tensor], int]]:
        """What the path computes besides products and attention, each with the width of its rows.

        For the start-up test of `serving.engine.invariance`, beside what it finds in the model.
        """
        size = self._head_size

        def rotated(rows: Tensor) -> Tensor:
            heads = rows.view(len(rows), -1, size)
            one = torch.ones(len(rows), 1, size, dtype=rows.dtype, device=rows.device)
            return rotate(heads, (one * 0.6, one * 0.8))

        width = self._embedding.shape[1]
        functions = {
            f"lean-norm:{width}": (self.features, width),
            f"lean-gate:{self._intermediate_size}": (gated, 2 * self._intermediate_size),
            f"lean-rotation:{size}": (rotated, self._num_rotated * size),
        }
        if (norm := self._layers[0].head_norm) is not None:
            functions[f"lean-head-norm:{size}"] = (
                lambda rows: self._normalise(rows.view(len(rows), -1, size), None) * norm,
                self._num_rotated * size,
            )
        return functions

    def _attend(
        self,
        number: int,
        layer: LeanLayer,
        hidden_TE: Tensor,
        rotation: tuple[Tensor, Tensor],
        flat: FlatRows,
    ) -> Tensor:
        mixed = layer.query_key_value(self._normalise(hidden_TE, layer.input_norm))
        heads = mixed.view(mixed.shape[0], -1, self._head_size)
        plain = heads[:, : self._num_rotated]
        if layer.head_norm is not None:
            plain = self._normalise(plain, None) * layer.head_norm
        rotated = rotate(plain, rotation)
        attended = attend_rows(
            number,
            rotated[:, : self._num_heads],
            rotated[:, self._num_heads :],
            heads[:, self._num_rotated :],
            scaling=self._scaling,
            spans=flat.spans,
        )
        return layer.output.added(hidden_TE, attended.view(mixed.shape[0], -1))

    def _normalise(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        return functional.rms_norm(rows, rows.shape[-1:], weight, self._epsilon)


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn the halves of each head against each other. Shapes: (T, H, D) and (T, 1, D) twice.

    Rotating by halves is a roll whose first half changes sign; the sign lives in the table.
    """
    cosine, signed_sine = rotation
    return torch.addcmul(heads * cosine, heads.roll(heads.shape[-1] // 2, -1), signed_sine)


def gated(gate_up: Tensor) -> Tensor:
    """Return SiLU of the first half of each row times the second half."""
    gate, up = gate_up.chunk(2, dim=-1)
    return functional.silu(gate).mul_(up)


def is_supported(model: PreTrainedModel) -> bool:
    """Whether `model` is a Llama of the plain kind: full attention, fixed rotations, SiLU."""
    config = model.config
    return (
        type(model) in _FAMILIES
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in _FIXED_ROTATIONS
        and not _slides(config)
    )


def _slides(config: Any) -> bool:
    """Whether any layer sees a window only."""
    if config.model_type == "mistral":
        return config.sliding_window is not None
    return "sliding_attention" in (getattr(config, "layer_types", None) or ())
