"""From the fields of a model's config.json to its `ModelSpec`.

Parameters are counted from the shapes of the weights, norms and biases included, for the families
in `FAMILIES`; another family is refused rather than guessed. A sliding window is not used: the cache
of such a model is counted as if every layer kept the whole context, which never counts too little.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from planner.documents import describe
from planner.errors import DocumentError
from planner.hardware.model_spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Family:
    """Where one architecture departs from Llama."""

    has_qkv_bias: bool = False
    has_head_norms: bool = False
    """Queries and keys are normalised head by head."""
    norms_per_layer: int = 2
    is_tied_by_default: bool = False
    """Whether a config without `tie_word_embeddings` shares table and head."""
    experts_field: str | None = None
    """Field that counts routed experts; nothing: dense."""
    has_latent_attention: bool = False
    has_expert_bias: bool = False
    """The expert router carries one bias an expert."""


FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "phi3": Family(),
    "qwen2": Family(has_qkv_bias=True),
    "qwen3": Family(has_head_norms=True),
    "qwen3_moe": Family(has_head_norms=True, experts_field="num_experts"),
    "mixtral": Family(experts_field="num_local_experts"),
    "gemma": Family(is_tied_by_default=True),
    "gemma2": Family(is_tied_by_default=True, norms_per_layer=4),
    "deepseek_v2": Family(has_latent_attention=True, experts_field="n_routed_experts"),
    "deepseek_v3": Family(
        has_latent_attention=True, experts_field="n_routed_experts", has_expert_bias=True
    ),
}


class _Fields:
    """The config's fields, read with their kind checked."""

    def __init__(self, content: Mapping[str, object], path: Path) -> None:
        self._content = content
        self._path = path

    def count(self, name: str, default: int | None = None) -> int:
        """Return a whole number of at least 0; without a default the field is required."""
        value = self._content.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DocumentError(
                self._path, f"{name}: a whole number is needed (got {value!r}); correct the file"
            )
        return value

    def is_on(self, name: str, *, default: bool) -> bool:
        """Return a switch."""
        value = self._content.get(name)
        return default if value is None else bool(value)

    def family(self) -> Family:
        """Return the architecture's family."""
        name = self._content.get("model_type")
        if not isinstance(name, str) or name not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise DocumentError(
                self._path, f"model_type: {name!r} cannot be planned; known are {known}"
            )
        return FAMILIES[name]


@dataclass(frozen=True, slots=True)
class _Attention:
    """Sizes of one layer's attention."""

    parameters: int
    values_per_pair: int
    kv_values: int
    kv_heads: int


@dataclass(frozen=True, slots=True)
class _FeedForward:
    """Sizes of all layers' feed-forward blocks."""

    parameters: int
    expert_parameters: int
    num_experts: int
    num_experts_per_token: int


def model_spec_of(content: Mapping[str, object], *, name: str, path: Path) -> ModelSpec:
    """Return the sizes of the model whose config.json holds `content`.

    Args:
        content: The file's fields.
        name: How the model is called.
        path: Named in errors.

    Raises:
        DocumentError: If the family is unknown or a field is missing or no whole number.
    """
    fields = _Fields(content, path)
    family = fields.family()
    hidden, layers = fields.count("hidden_size"), fields.count("num_hidden_layers")
    if 0 in (hidden, layers, fields.count("num_attention_heads")):
        raise DocumentError(path, "its width, layers or heads are 0; correct the file")
    attention = _latent(fields) if family.has_latent_attention else _grouped(fields, family)
    feed_forward = _feed_forward(fields, family, hidden=hidden, layers=layers)
    norms = layers * family.norms_per_layer * hidden + hidden
    sizes: dict[str, object] = {
        "name": name,
        "num_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": fields.count("num_attention_heads"),
        "num_key_value_heads": attention.kv_heads,
        "attention_values_per_pair": attention.values_per_pair,
        "kv_values_per_token": layers * attention.kv_values,
        "layer_parameters": layers * attention.parameters + feed_forward.parameters + norms,
        "vocabulary_parameters": fields.count("vocab_size") * hidden,
        "is_embedding_tied": fields.is_on("tie_word_embeddings", default=family.is_tied_by_default),
        "expert_parameters": feed_forward.expert_parameters,
        "num_experts": feed_forward.num_experts,
        "num_experts_per_token": feed_forward.num_experts_per_token,
        "max_context_tokens": fields.count("max_position_embeddings"),
    }
    try:
        return ModelSpec.model_validate(sizes)
    except ValidationError as error:
        raise DocumentError(path, describe(error)) from None


def _grouped(fields: _Fields, family: Family) -> _Attention:
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    kv_heads = fields.count("num_key_value_heads", heads)
    width = fields.count("head_dim", hidden // heads)
    parameters = 2 * hidden * heads * width + 2 * hidden * kv_heads * width
    if family.has_qkv_bias or fields.is_on("attention_bias", default=False):
        parameters += (heads + 2 * kv_heads) * width
    if fields.is_on("attention_bias", default=False):
        parameters += hidden
    if family.has_head_norms:
        parameters += 2 * width
    return _Attention(parameters, 2 * heads * width, 2 * kv_heads * width, kv_heads)


def _latent(fields: _Fields) -> _Attention:
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    rotary, latent = fields.count("qk_rope_head_dim"), fields.count("kv_lora_rank")
    key, value = fields.count("qk_nope_head_dim") + rotary, fields.count("v_head_dim")
    query_rank = fields.count("q_lora_rank", 0)
    if query_rank:
        query = hidden * query_rank + query_rank + query_rank * heads * key
    else:
        query = hidden * heads * key
    cached = hidden * (latent + rotary) + latent
    expanded = latent * heads * (key - rotary + value)
    parameters = query + cached + expanded + heads * value * hidden
    return _Attention(parameters, heads * (key + value), latent + rotary, 1)


def _feed_forward(fields: _Fields, family: Family, *, hidden: int, layers: int) -> _FeedForward:
    dense = 3 * hidden * fields.count("intermediate_size")
    if fields.is_on("mlp_bias", default=False):
        dense += 2 * fields.count("intermediate_size") + hidden
    experts = fields.count(family.experts_field, 0) if family.experts_field else 0
    if experts == 0:
        return _FeedForward(layers * dense, 0, 1, 1)
    expert = 3 * hidden * fields.count("moe_intermediate_size", fields.count("intermediate_size"))
    num_dense = fields.count("first_k_dense_replace", 0)
    if fields.count("decoder_sparse_step", 1) != 1 or fields.count("moe_layer_freq", 1) != 1:
        raise DocumentError(
            fields._path, "decoder_sparse_step and moe_layer_freq other than 1 cannot be planned"
        )
    routed = (layers - num_dense) * experts * expert
    router = experts * (hidden + family.has_expert_bias)
    shared = fields.count("n_shared_experts", 0) * expert
    total = num_dense * dense + (layers - num_dense) * (router + shared) + routed
    return _FeedForward(total, routed, experts, fields.count("num_experts_per_tok"))
