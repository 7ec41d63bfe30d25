"""The family's draft head: trained on the family's text, for its shipped target."""

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from serving.draft_training.data import Split, TokenSequence, cut
from serving.draft_training.frozen import FrozenTarget
from serving.draft_training.training import Reporter, learn_and_judge
from serving.engine.head_folder import refuse_foreign, save_head
from serving.tiny.bigram import TokenIds
from serving.tiny.head_card import TinyHeadCard, render_head_readme
from serving.tiny.head_measure import compare_drafts
from serving.tiny.recipe import Recipe
from serving.tiny.text import TokenizedText

logger = logging.getLogger(__name__)

CACHE_BYTES = 4 << 30
"""Most disk room for features."""
HEAD = "head"
"""Folder of the head below the family's."""


def make_head(
    text: TokenizedText, recipe: Recipe, *, family: Path, work: Path, report: Reporter
) -> None:
    """Train a head for the target in `family`, compare it with the draft there, write it beside.

    Args:
        text: The family's corpus.
        recipe: The family's recipe; `recipe.head` is the head's.
        family: A finished family's folder; `head` in it is made or replaced.
        work: Where features and checkpoints live, to resume from.
        report: Told how it goes.

    Raises:
        DocumentError: If `work` belongs to another target, text or recipe.
        ModelError: If there is no target in `family`, or its `head` holds something else.
    """
    refuse_foreign(family / HEAD)
    target = FrozenTarget.load(str(family / "target"), device="cpu")
    split = head_text(text, recipe)
    head, training = learn_and_judge(
        target, split, recipe.head, work=work, cache_bytes=CACHE_BYTES, report=report
    )
    texts = [torch.from_numpy(piece.ids.astype(np.int64)) for piece in split.held_out]
    comparison = compare_drafts(head, target, family / "draft", texts=texts)
    card = TinyHeadCard(training=training, comparison=comparison)
    files = {
        "card.json": card.model_dump_json(indent=1) + "\n",
        "README.md": render_head_readme(card),
    }
    save_head(head, family / HEAD, texts=files)


def head_text(text: TokenizedText, recipe: Recipe) -> Split:
    """Return the family's training text, cut to the head's sequences, and held-out files' heads."""
    length = recipe.head.sequence_tokens
    held_out = (ids[: recipe.context_tokens] for ids in text.documents(text.corpus.held_out))
    stream = text.training_stream(recipe)[: recipe.head_stream_tokens]
    return Split(
        training=list(_pieces([stream], length)),
        held_out=list(_pieces(held_out, recipe.context_tokens)),
    )


def _pieces(documents: Iterable[TokenIds], length: int) -> Iterable[TokenSequence]:
    for ids in documents:
        whole = TokenSequence(ids.astype(np.int32), np.ones(len(ids), np.uint8))
        yield from cut(whole, length)
