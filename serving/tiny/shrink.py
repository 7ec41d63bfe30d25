"""Starts a draft as its target made small: some layers, the main directions, the strongest neurons.

What a trained target knows, such as copying what followed an earlier occurrence, a fresh shallow
model learns late. Layers are kept as in Sanh et al., "DistilBERT" (2019), section 3; the residual
stream is cut to its principal directions as in Ashkboos et al., "SliceGPT" (2024), section 3.3. With
every layer, direction and neuron kept the draft computes what the target computes.

Shape legend: B sequences; T tokens a sequence; V vocabulary; E the target's hidden size; e the
draft's.
"""

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

SAME = ("vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim")
SMALLER = ("hidden_size", "intermediate_size")


@torch.no_grad()
def start_draft(
    draft: LlamaForCausalLM,
    target: LlamaForCausalLM,
    *,
    layers: tuple[int, ...],
    sample_BT: Tensor,
) -> None:
    """Give `draft` the most of `target` that its shape holds, in place.

    Args:
        draft: As many layers as `layers` names; same heads and vocabulary as the target; embedding
            and head untied, because the target's last norm goes into the head.
        target: The trained model.
        layers: Index of the target's layer for each of the draft's.
        sample_BT: Token ids on which the main directions are found. Shape: (B, T).

    Raises:
        ValueError: If the shapes do not fit.
    """
    _refuse_misfit(draft, target, layers)
    directions_Ee = principal_directions(target, sample_BT, count=draft.config.hidden_size)
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
def principal_directions(model: LlamaForCausalLM, sample_BT: Tensor, *, count: int) -> Tensor:
    """Return the directions that hold most of the residual stream, over all layers. Shape: (E, e).

    Every row counts with length 1, as the norms behind it see it.
    """
    states = model(input_ids=sample_BT, use_cache=False, output_hidden_states=True).hidden_states
    rows = torch.cat([state.flatten(0, 1).double() for state in states[:-1]])
    rows = nn.functional.normalize(rows, dim=-1)
    _, vectors = torch.linalg.eigh(rows.T @ rows)  # ascending eigenvalues
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


def _refuse_misfit(
    draft: LlamaForCausalLM, target: LlamaForCausalLM, layers: tuple[int, ...]
) -> None:
    for name in SAME + SMALLER:
        ours, theirs = getattr(draft.config, name), getattr(target.config, name)
        if ours > theirs or (name in SAME and ours != theirs):
            limit = "exactly" if name in SAME else "at most"
            raise ValueError(f"draft has {name} {ours}; give it {limit} the target's {theirs}")
    if draft.config.tie_word_embeddings:
        raise ValueError("draft has tied embeddings; untie them (tied_embeddings: false)")
    if len(draft.model.layers) != len(layers):
        raise ValueError(
            f"draft has {len(draft.model.layers)} layers and starts from {len(layers)} of the "
            "target's; name one for each"
        )
    missing = [index for index in layers if not 0 <= index < len(target.model.layers)]
    if missing:
        raise ValueError(
            f"the target has no layer {missing[0]}; name layers below {len(target.model.layers)}"
        )
