"""A Llama decoder in few, large operations: what the drafter runs where the draft is a Llama.

A draft step is one token through a small model, so its cost is the number of operations rather
than their size. Here queries, keys and values come from one product, gate and up from another,
rotations from a table. The target stays with transformers, whose breadth and adapters it needs; at
the sizes worth verifying its cost is reading weights.

Shape letters: T rows of the batch, N rows whose logits are wanted, V vocabulary, E hidden size,
H query heads, G key-value heads, D head size, I intermediate size.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from serving.engine.flat_attention import Span, attend
from serving.engine.model import FlatModel, Rows, TokenModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer's weights, fused."""

    attention_norm_E: Tensor
    query_key_value: Tensor
    output: Tensor
    feed_forward_norm_E: Tensor
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
        self._head = model.lm_head.weight
        self._norm = model.model.norm.weight
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
        self._cos = cos[0].unsqueeze(1)
        self._sin = sin[0].unsqueeze(1)

    @torch.inference_mode()
    def forward(self, batch: Sequence[Rows]) -> Tensor:
        """Return logits of the wanted rows, as `FlatModel.forward` does. Shape: (N, V)."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        spans: list[Span] = []
        for rows in batch:
            start, past = len(tokens), rows.cache.length
            tokens.extend(rows.tokens)
            stop = len(tokens)
            positions.extend(range(past, past + stop - start))
            wanted.extend(range(stop - rows.num_logits, stop))
            spans.append(Span(rows.cache, start, stop))
        device = self._embedding.device
        index = torch.tensor(positions, device=device)
        cos, sin = self._cos[index], self._sin[index]
        hidden_TE = functional.embedding(torch.tensor(tokens, device=device), self._embedding)
        for number, layer in enumerate(self._layers):
            hidden_TE = self._attention(number, layer, hidden_TE, cos, sin, spans)
            hidden_TE = self._feed_forward(layer, hidden_TE)
        if len(wanted) < len(tokens):
            hidden_TE = hidden_TE[wanted]
        return functional.linear(self._normalise(hidden_TE, self._norm), self._head)

    def _attention(
        self,
        number: int,
        layer: _Layer,
        hidden_TE: Tensor,
        cos: Tensor,
        sin: Tensor,
        spans: list[Span],
    ) -> Tensor:
        rows = hidden_TE.shape[0]
        normed_TE = self._normalise(hidden_TE, layer.attention_norm_E)
        mixed = functional.linear(normed_TE, layer.query_key_value)
        heads = mixed.view(rows, -1, self._head_size)
        plain = heads[:, : self._num_rotated]
        first, second = plain.chunk(2, dim=-1)
        rotated = plain * cos + torch.cat((-second, first), dim=-1) * sin
        by_head = rotated.transpose(0, 1).unsqueeze(0)
        attended = attend(
            number,
            by_head[:, : self._num_heads],
            by_head[:, self._num_heads :],
            heads[:, self._num_rotated :].transpose(0, 1).unsqueeze(0),
            scaling=self._head_size**-0.5,
            spans=spans,
        )
        return hidden_TE + functional.linear(attended.reshape(rows, -1), layer.output)

    def _feed_forward(self, layer: _Layer, hidden_TE: Tensor) -> Tensor:
        normed_TE = self._normalise(hidden_TE, layer.feed_forward_norm_E)
        gate, up = functional.linear(normed_TE, layer.gate_up).chunk(2, dim=-1)
        return hidden_TE + functional.linear(functional.silu(gate) * up, layer.down)

    def _normalise(self, hidden_TE: Tensor, weight_E: Tensor) -> Tensor:
        return functional.rms_norm(hidden_TE, weight_E.shape, weight_E, self._epsilon)


def _fuse(layer: LlamaDecoderLayer) -> _Layer:
    attention, feed_forward = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    return _Layer(
        attention_norm_E=layer.input_layernorm.weight.detach(),
        query_key_value=torch.cat([part.weight.detach() for part in projections]),
        output=attention.o_proj.weight.detach(),
        feed_forward_norm_E=layer.post_attention_layernorm.weight.detach(),
        gate_up=torch.cat(
            [feed_forward.gate_proj.weight.detach(), feed_forward.up_proj.weight.detach()]
        ),
        down=feed_forward.down_proj.weight.detach(),
    )


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
