"""What a decoder costs in memory, traffic and arithmetic, whatever it runs on."""

from typing import Annotated

from pydantic import Field

from planner.config import StrictModel
from planner.hardware.gpu_spec import DType
from planner.units import Name, Tokens

BYTES_PER_PARAMETER: dict[DType, float] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    # Groups of 128 four-bit weights share a 16-bit scale and a 4-bit zero point (AWQ, GPTQ).
    "int4": (4 + 20 / 128) / 8,
}
"""Bytes a weight takes. Embeddings and output head of quantised models stay at 16 bits."""

Parameters = Annotated[int, Field(ge=0, le=10**14)]
Size = Annotated[int, Field(gt=0, le=10**9)]


class ModelSpec(StrictModel):
    """A decoder's sizes; `model_config.py` computes them from a config.json."""

    name: Name
    """Hub id, or the name of its folder."""
    num_layers: Size
    """Decoder layers."""
    hidden_size: Size
    """Width of the residual stream."""
    num_attention_heads: Size
    """Query heads; tensor parallelism must divide them."""
    num_key_value_heads: Size
    """Heads kept in the cache; with latent attention 1, which every device holds."""
    attention_values_per_pair: Size
    """Multiply-adds of one query-key pair in one layer: heads times the widths of key and value."""
    kv_values_per_token: Size
    """Numbers a token leaves in the cache, all layers together."""
    layer_parameters: Parameters
    """Parameters of all layers and norms, every expert included."""
    vocabulary_parameters: Parameters
    """Parameters of one table of embeddings; the output head has as many."""
    is_embedding_tied: bool
    """The head is the table of embeddings itself."""
    expert_parameters: Parameters = 0
    """Parameters of the routed experts, all layers together; 0: a dense model."""
    num_experts: Size = 1
    """Routed experts in a layer."""
    num_experts_per_token: Size = 1
    """Routed experts a token visits in a layer."""
    max_context_tokens: Tokens
    """Longest sequence, prompt and answer together."""

    @property
    def total_parameters(self) -> int:
        """Every parameter, once."""
        tables = 1 if self.is_embedding_tied else 2
        return self.layer_parameters + tables * self.vocabulary_parameters

    def weight_bytes(self, dtype: DType) -> float:
        """Return the memory of all weights."""
        tables = 1 if self.is_embedding_tied else 2
        return self.layer_parameters * BYTES_PER_PARAMETER[
            dtype
        ] + tables * self.vocabulary_parameters * _table_bytes(dtype)

    def weight_traffic_bytes(self, dtype: DType, num_tokens: float) -> float:
        """Return the weights one step reads: the layers once, the head, and the experts visited.

        Tokens pick experts evenly and independently, so an expert stays unread with probability
        `(1 - visited / experts) ** num_tokens`.
        """
        unread = self.expert_parameters * self._unvisited_fraction(num_tokens)
        return (self.layer_parameters - unread) * BYTES_PER_PARAMETER[
            dtype
        ] + self.vocabulary_parameters * _table_bytes(dtype)

    def kv_bytes_per_token(self, dtype: DType) -> float:
        """Return what a token takes in the cache when its numbers are stored as `dtype`."""
        return self.kv_values_per_token * BYTES_PER_PARAMETER[dtype]

    @property
    def flops_per_token(self) -> float:
        """Arithmetic of the layers for one token, attention to the context not included."""
        visited = self.layer_parameters - self.expert_parameters * self._unvisited_fraction(1)
        return 2.0 * visited

    @property
    def head_flops(self) -> float:
        """Arithmetic of the output head for one sampled token."""
        return 2.0 * self.vocabulary_parameters

    @property
    def attention_flops_per_pair(self) -> float:
        """Arithmetic of one query-key pair, all layers together."""
        return 2.0 * self.num_layers * self.attention_values_per_pair

    def _unvisited_fraction(self, num_tokens: float) -> float:
        return float((1 - self.num_experts_per_token / self.num_experts) ** num_tokens)


def _table_bytes(dtype: DType) -> float:
    return max(BYTES_PER_PARAMETER[dtype], 2.0)
