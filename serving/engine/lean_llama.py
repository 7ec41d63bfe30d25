"""A Llama decoder in few, large operations: what the drafter runs where the draft is a Llama.

A draft step is one token through a small model, so its cost is the number of operations rather
than their size. Here queries, keys and values come from one product, gate and up from another,
norms' weights are folded into the products behind them, rotations come from a table. The target
stays with transformers, whose breadth and adapters it needs; at the sizes worth verifying its cost
is reading weights.

Shape letters: T rows of the batch, N rows whose logits are wanted, V vocabulary, E hidden size,
H query heads, G key-value heads, D head size, I intermediate size.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from serving.engine.flat_attention import attend
from serving.engine.model import FlatModel, TokenModel
from serving.engine.rows import Rows, lay_flat
from serving.engine.spans import Spans
from serving.engine.transfer import upload

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer's weights: inputs fused with the norm folded in, outputs transposed."""

    query_key_value: Tensor
    output: Tensor
    gate_up: Tensor
    down: Tensor


class LeanLlama:
    """Runs a transformers Llama's weights over flat batches; no adapters."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        """Fuse the weights of `model`; `is_supported` must hold for it.

        Fused weights are copies: a draft is small.
        """
        config = model.config
        self._embedding = model.model.embed_tokens.weight
        self._head = (model.lm_head.weight * model.model.norm.weight).detach()
        self._width = (config.hidden_size,)
        self._epsilon = config.rms_norm_eps
        attention = model.model.layers[0].self_attn
        self._head_size = int(attention.head_dim)
        self._num_heads = attention.q_proj.out_features // self._head_size
        self._num_rotated = self._num_heads + attention.k_proj.out_features // self._head_size
        self._layers = [_fuse(layer) for layer in model.model.layers]
        self.context_tokens = int(config.max_position_embeddings)
        positions = torch.arange(self.context_tokens, device=model.device)[None]
        with torch.inference_mode():
            cos, sin = model.model.rotary_emb(self._embedding, position_ids=positions)
        # Rotating by halves is a roll whose first half changes sign; the sign lives in the table.
        half = self._head_size // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        self._rotations = torch.stack((cos[0], signed[0]), dim=1).unsqueeze(2)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Rows], ids_T: Tensor | None = None) -> Tensor:
        """Return logits of the wanted rows, as `FlatModel.forward` does. Shape: (N, V)."""
        flat = lay_flat(batch)
        device = self._embedding.device
        cos, sin = self._rotations[upload(flat.positions, device)].unbind(1)
        hidden_TE = self._embedding[upload(flat.tokens, device) if ids_T is None else ids_T]
        for number, layer in enumerate(self._layers):
            hidden_TE = self._attention(number, layer, hidden_TE, cos, sin, flat.spans)
            hidden_TE = self._feed_forward(layer, hidden_TE)
        if not flat.wants_all:
            hidden_TE = hidden_TE[upload(flat.wanted, device)]
        return functional.linear(self._normalise(hidden_TE), self._head)

    def _attention(
        self,
        number: int,
        layer: _Layer,
        hidden_TE: Tensor,
        cos: Tensor,
        sin: Tensor,
        spans: Spans,
    ) -> Tensor:
        rows = hidden_TE.shape[0]
        mixed = functional.linear(self._normalise(hidden_TE), layer.query_key_value)
        heads = mixed.view(rows, -1, self._head_size)
        plain = heads[:, : self._num_rotated]
        rotated = torch.addcmul(plain * cos, plain.roll(self._head_size // 2, -1), sin)
        by_head = rotated.transpose(0, 1).unsqueeze(0)
        attended = attend(
            number,
            by_head[:, : self._num_heads],
            by_head[:, self._num_heads :],
            heads[:, self._num_rotated :].transpose(0, 1).unsqueeze(0),
            scaling=self._head_size**-0.5,
            spans=spans,
        )
        return torch.addmm(hidden_TE, attended.reshape(rows, -1), layer.output)

    def _feed_forward(self, layer: _Layer, hidden_TE: Tensor) -> Tensor:
        gate, up = functional.linear(self._normalise(hidden_TE), layer.gate_up).chunk(2, dim=-1)
        return torch.addmm(hidden_TE, functional.silu(gate) * up, layer.down)

    def _normalise(self, hidden_TE: Tensor) -> Tensor:
        return functional.rms_norm(hidden_TE, self._width, None, self._epsilon)


def _fuse(layer: LlamaDecoderLayer) -> _Layer:
    attention, feed_forward = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return _Layer(
        query_key_value=_folded(projections, layer.input_layernorm.weight),
        output=attention.o_proj.weight.detach().T,
        gate_up=_folded(
            (feed_forward.gate_proj, feed_forward.up_proj), layer.post_attention_layernorm.weight
        ),
        down=feed_forward.down_proj.weight.detach().T,
    )


def _folded(projections: tuple[nn.Linear, ...], norm_E: Tensor) -> Tensor:
    """Return the projections as one, with the weight of the norm before them multiplied in."""
    return (torch.cat([part.weight for part in projections]) * norm_E).detach()


def is_supported(model: PreTrainedModel) -> TypeGuard[LlamaForCausalLM]:
    """Whether `model` is a Llama of the plain kind: no biases, unscaled rotations, SiLU."""
    config = model.config
    return (
        isinstance(model, LlamaForCausalLM)
        and not (config.attention_bias or config.mlp_bias)
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] == "default"
    )


def leanest(model: FlatModel) -> TokenModel:
    """Return the cheapest way to run `model` without adapters, and say which it is."""
    if is_supported(model.model):
        logger.info("draft path=lean")
        return LeanLlama(model.model)
    logger.info("draft path=transformers")
    return model
