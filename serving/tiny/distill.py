"""The draft: a shallow model taught by the finished target to guess what the target would say.

Shape legend: B sequences; T tokens a sequence; V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel

from serving.tiny.trainer import LossFunction


def start_draft(
    draft: LlamaForCausalLM, target: LlamaForCausalLM, *, layers: tuple[int, ...]
) -> None:
    """Make `draft` a shortened target, in place: its embedding, last norm, and some of its layers.

    Layers taken from the target know at once what a fresh shallow model learns late, such as
    copying what followed an earlier occurrence. Source: Sanh et al., "DistilBERT" (2019), section 3.

    Args:
        draft: As many layers as `layers` names, each of the target's shape.
        target: The trained model.
        layers: Index of the target's layer for each of the draft's.

    Raises:
        ValueError: If the shapes differ.
    """
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "head_dim")
    for name in (*same, "num_key_value_heads"):
        ours, theirs = getattr(draft.config, name), getattr(target.config, name)
        if ours != theirs:
            raise ValueError(f"draft has {name} {ours}, the target {theirs}; give both one shape")
    if len(draft.model.layers) != len(layers):
        raise ValueError(
            f"draft has {len(draft.model.layers)} layers and starts from {len(layers)} of the "
            "target's; name one for each"
        )
    for ours, index in zip(draft.model.layers, layers, strict=True):
        ours.load_state_dict(target.model.layers[index].state_dict())
    draft.model.embed_tokens.load_state_dict(target.model.embed_tokens.state_dict())
    draft.model.norm.load_state_dict(target.model.norm.state_dict())


def distillation(
    draft: PreTrainedModel, target: PreTrainedModel, *, hard_fraction: float
) -> LossFunction:
    """Return the loss of `draft` against `target` on a batch of text, in nats a token.

    Args:
        draft: The model that learns.
        target: The teacher; put into evaluation mode, never changed otherwise.
        hard_fraction: Weight of `hard_loss`; the rest goes to `soft_loss`.
    """
    target.train(mode=False).requires_grad_(False)

    def loss_of(ids: Tensor) -> Tensor:
        inputs = ids[:, :-1]
        with torch.no_grad():
            target_logits_BTV = target(input_ids=inputs, use_cache=False).logits.float()
        draft_logits_BTV = draft(input_ids=inputs, use_cache=False).logits.float()
        soft = soft_loss(draft_logits_BTV, target_logits_BTV)
        hard = hard_loss(draft_logits_BTV, target_logits_BTV)
        return (1 - hard_fraction) * soft + hard_fraction * hard

    return loss_of


def soft_loss(draft_logits_BTV: Tensor, target_logits_BTV: Tensor) -> Tensor:
    """Return the mean forward Kullback-Leibler divergence KL(target || draft) at temperature 1.

    Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015),
    section 2, up to the target's entropy, which does not depend on the draft.
    """
    return functional.kl_div(
        draft_logits_BTV.log_softmax(-1).flatten(0, 1),
        target_logits_BTV.log_softmax(-1).flatten(0, 1),
        log_target=True,
        reduction="batchmean",
    )


def hard_loss(draft_logits_BTV: Tensor, target_logits_BTV: Tensor) -> Tensor:
    """Return the mean surprise of the draft at the target's likeliest token."""
    return functional.cross_entropy(
        draft_logits_BTV.flatten(0, 1), target_logits_BTV.argmax(-1).flatten()
    )
