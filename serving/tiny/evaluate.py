"""How well models predict text: loss of one, greedy agreement of two, document by document.

Shape legend: B sequences; T tokens a sequence; V vocabulary; n predicted tokens of a document.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from serving.tiny.bigram import Floats, TokenIds

ROWS = 4
"""Full windows in one forward pass; bounds the memory of the logits."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a model made of each token of a document after the first."""

    nats: Floats
    """Surprise of the true token, in nats. Shape: (n,)."""
    greedy: TokenIds
    """The token the model found likeliest in its place. Shape: (n,)."""


@torch.inference_mode()
def predict(model: PreTrainedModel, ids: TokenIds, *, context_tokens: int) -> Predictions:
    """Predict each token of a document from those before it in its window.

    Windows of `context_tokens` predictions follow one another without overlap; the first sees the
    document's first id (the end-of-text id), each later one the last token of the window before.

    Args:
        model: In evaluation mode; float32 for figures that repeat.
        ids: Token ids of the document, the end-of-text id first. Shape: (n + 1,), n at least 1.
        context_tokens: Predictions of one full window.

    Raises:
        ValueError: If the document holds no token after its first.
    """
    if len(ids) < 2:
        raise ValueError(f"a document of {len(ids)} ids has nothing to predict; leave it out")
    nats, greedy = [], []
    for windows_BT in _batched_windows(ids, context_tokens):
        logits_BTV = model(input_ids=windows_BT[:, :-1], use_cache=False).logits.float()
        loss = functional.cross_entropy(
            logits_BTV.flatten(0, 1), windows_BT[:, 1:].flatten(), reduction="none"
        )
        nats.append(loss.double().numpy())
        greedy.append(logits_BTV.argmax(-1).flatten().numpy())
    return Predictions(np.concatenate(nats), np.concatenate(greedy))


def _batched_windows(ids: TokenIds, context_tokens: int) -> Iterator[Tensor]:
    """Yield the windows in order, the full ones several at a time. Shape: (B, T + 1)."""
    all_ids = torch.from_numpy(ids.astype(np.int64))
    num_predictions = len(all_ids) - 1
    num_full = num_predictions // context_tokens
    if num_full:
        windows = all_ids.unfold(0, context_tokens + 1, context_tokens)
        yield from torch.split(windows, ROWS)
    if num_predictions > num_full * context_tokens:
        yield all_ids[num_full * context_tokens :].unsqueeze(0)


@dataclass(frozen=True, slots=True)
class Score:
    """Sums over the predicted tokens of one document or several; `+` adds two."""

    num_tokens: int = 0
    """Predicted tokens."""
    target_nats: float = 0.0
    """Summed surprise of the target."""
    draft_nats: float = 0.0
    """Summed surprise of the draft."""
    num_agreeing: int = 0
    """Positions where draft and target find the same token likeliest."""

    @property
    def target_nats_per_token(self) -> float:
        """The target's loss."""
        return self.target_nats / self.num_tokens

    @property
    def draft_nats_per_token(self) -> float:
        """The draft's loss."""
        return self.draft_nats / self.num_tokens

    @property
    def agreement_fraction(self) -> float:
        """Share of positions where draft and target find the same token likeliest."""
        return self.num_agreeing / self.num_tokens

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.num_tokens + other.num_tokens,
            self.target_nats + other.target_nats,
            self.draft_nats + other.draft_nats,
            self.num_agreeing + other.num_agreeing,
        )


def score(
    target: PreTrainedModel, draft: PreTrainedModel, ids: TokenIds, *, context_tokens: int
) -> Score:
    """Judge both models on one document; arguments and errors as in `predict`."""
    ours = predict(target, ids, context_tokens=context_tokens)
    guess = predict(draft, ids, context_tokens=context_tokens)
    return Score(
        num_tokens=len(ours.nats),
        target_nats=float(ours.nats.sum()),
        draft_nats=float(guess.nats.sum()),
        num_agreeing=int(np.count_nonzero(ours.greedy == guess.greedy)),
    )
