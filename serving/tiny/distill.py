"""The draft: a shallow model taught by the finished target to guess what the target would say.

Shape legend: B sequences; T tokens a sequence; V vocabulary.
"""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from serving.tiny.trainer import LossFunction


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
