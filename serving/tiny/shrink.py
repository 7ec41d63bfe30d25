"""Starts a draft as its target made small: some layers, the main directions, the strongest neurons.

What a trained target knows, such as copying what followed an earlier occurrence, a fresh shallow
model learns late. Layers are kept as in Sanh et al., "DistilBERT" (2019), section 3; the residual
stream is cut to its principal directions as in Ashkboos et al., "SliceGPT" (2024, arXiv 2401.15024),
section 3.3, but in one basis for all layers where SliceGPT has one a block. Which neurons are the
strongest is a judgement, not from a source. With every layer, direction and neuron kept the draft
computes what the target computes, up to rounding.

Shape legend: B sequences; T tokens a sequence; E the target's hidden size; e the draft's.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

SAME = ("vocab_size", "rope_parameters", "rms_norm_eps", "hidden_act")
"""What the target's weights mean nothing without, besides the shapes that `Recipe` checks."""


@torch.no_grad()
def start_draft(
    draft: LlamaForCausalLM,
    target: LlamaForCausalLM,
    *,
    layers: tuple[int, ...],
    sample: Iterable[Tensor],
) -> None:
    """Fill `draft` with layers of `target` cut to their main directions and neurons, in place.

    Args:
        draft: Of a shape that `Recipe` allows beside the target's: embedding and head untied,
            because the target's last norm goes into the head.
        target: The trained model.
        layers: Index of the target's layer for each of the draft's.
        sample: Batches of token ids on which the main directions are found. Shape: (B, T) each.

    Raises:
        ValueError: If the models differ in more than their shapes, or have biases.
    """
    _refuse_misfit(draft, target)
    directions_Ee = principal_directions(target, sample, count=draft.config.hidden_size)
    # A norm divides by the root mean square; over fewer directions the mean is over fewer terms.
    scale = (target.config.hidden_size / draft.config.hidden_size) ** 0.5
    ours, theirs = draft.model, target.model
    ours.embed_tokens.weight.copy_(theirs.embed_tokens.weight @ directions_Ee)
    for layer, index in zip(ours.layers, layers, strict=True):
        _fill_layer(layer, theirs.layers[index], directions_Ee)
        layer.input_layernorm.weight.fill_(scale)
        layer.post_attention_layernorm.weight.fill_(scale)
    ours.norm.weight.fill_(scale)
    draft.lm_head.weight.copy_(_reading(target.lm_head, theirs.norm.weight, directions_Ee))


@torch.no_grad()
def principal_directions(
    model: LlamaForCausalLM, sample: Iterable[Tensor], *, count: int
) -> Tensor:
    """Return the main directions of what the layers take in. Shape: (E, e).

    The rows are the inputs of every layer: the embedding, and each layer's output but the last's.
    The states between attention and feed-forward are not among them. Every row counts with length
    1, as the norm behind it sees it.
    """
    size = model.config.hidden_size
    products_EE = torch.zeros(size, size, dtype=torch.float64)
    for ids_BT in sample:
        states = model(input_ids=ids_BT, use_cache=False, output_hidden_states=True).hidden_states
        for state_BTE in states[:-1]:
            rows = nn.functional.normalize(state_BTE.flatten(0, 1).double(), dim=-1)
            products_EE += rows.T @ rows
    _, vectors = torch.linalg.eigh(products_EE)  # ascending eigenvalues
    directions_Ee: Tensor = vectors[:, -count:].to(model.dtype)
    return directions_Ee


def _fill_layer(draft: LlamaDecoderLayer, target: LlamaDecoderLayer, directions_Ee: Tensor) -> None:
    attention_norm, mlp_norm = target.input_layernorm.weight, target.post_attention_layernorm.weight
    for name in ("q_proj", "k_proj", "v_proj"):
        theirs = getattr(target.self_attn, name)
        getattr(draft.self_attn, name).weight.copy_(_reading(theirs, attention_norm, directions_Ee))
    draft.self_attn.o_proj.weight.copy_(directions_Ee.T @ target.self_attn.o_proj.weight)
    kept = _strongest_neurons(target, count=draft.mlp.up_proj.out_features)
    for name in ("gate_proj", "up_proj"):
        theirs = getattr(target.mlp, name)
        getattr(draft.mlp, name).weight.copy_(_reading(theirs, mlp_norm, directions_Ee)[kept])
    draft.mlp.down_proj.weight.copy_((directions_Ee.T @ target.mlp.down_proj.weight)[:, kept])


def _reading(projection: nn.Linear, norm_E: Tensor, directions_Ee: Tensor) -> Tensor:
    """Return the weight that reads the stream's main directions, the norm before it folded in."""
    return (projection.weight * norm_E) @ directions_Ee


def _strongest_neurons(layer: LlamaDecoderLayer, *, count: int) -> Tensor:
    """Return which feed-forward neurons have the largest product of weight norms, in order."""
    mlp = layer.mlp
    strength = (
        mlp.gate_proj.weight.norm(dim=1)
        * mlp.up_proj.weight.norm(dim=1)
        * mlp.down_proj.weight.norm(dim=0)
    )
    kept: Tensor = strength.topk(count).indices.sort().values
    return kept


def _refuse_misfit(draft: LlamaForCausalLM, target: LlamaForCausalLM) -> None:
    for name in SAME:
        ours, theirs = getattr(draft.config, name), getattr(target.config, name)
        if ours != theirs:
            raise ValueError(f"draft has {name} {ours}; give it the target's {theirs}")
    for role, config in (("draft", draft.config), ("target", target.config)):
        if config.attention_bias or config.mlp_bias:
            raise ValueError(f"{role} has biases, which are not carried over; leave them out")
