"""`motley serve train-draft` from model and text to a head's folder."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch

from planner.config import StrictModel
from serving.draft_training.acceptance import Acceptance, head_acceptance
from serving.draft_training.data import Split, TokenSequence, read_split
from serving.draft_training.features import CacheFacts, FeatureCache
from serving.draft_training.frozen import FrozenTarget
from serving.draft_training.recipe import HeadRecipe
from serving.draft_training.trainer import FrozenEnds, train_head
from serving.engine.dovetail_head import DovetailHead
from serving.engine.head_folder import refuse_foreign, save_head

logger = logging.getLogger(__name__)

HELD_OUT_SHARE = 0.05
"""Share of the feature cache's room that held-out text may take."""


class Reporter(Protocol):
    """Shows how the work goes."""

    def __call__(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        """Show that `stage` has `done` of `total` behind it."""


class HeadCard(StrictModel):
    """How a head was trained and how it fares; its `card.json`."""

    schema_version: Literal[1] = 1
    """Version of this document's schema."""
    recipe: HeadRecipe
    """Shape and training."""
    target_sha256: str
    """Digest of the target's weights."""
    text_sha256: str
    """Digest of the token ids trained on."""
    num_parameters: int
    """Weights of the head; the target's embedding and head are not among them."""
    num_cached_tokens: int
    """Different tokens trained on."""
    num_training_tokens: int
    """Tokens seen in training, repetitions counted."""
    training_seconds: float
    """Wall time of the training loop over all resumed runs."""
    num_threads: int
    """Processor threads of the last run."""
    num_judged: tuple[int, ...]
    """Held-out chains that reached each depth, the first depth first."""
    acceptance_fractions: tuple[float, ...]
    """Share of them accepted at that depth, while feeding back the head's own features."""


def train_draft(
    target: FrozenTarget,
    data: Iterable[Path],
    recipe: HeadRecipe,
    *,
    work: Path,
    output: Path,
    cache_bytes: int,
    report: Reporter,
) -> HeadCard:
    """Train a head for `target` on the text of `data`; write it to `output` and return its card.

    Raises:
        DocumentError: If the text or the work folder is not usable.
        ModelError: If `output` holds anything but a head.
    """
    refuse_foreign(output)
    split = read_split(data, target.tokenizer, sequence_tokens=_longest(target, recipe))
    head, card = learn_and_judge(
        target, split, recipe, work=work, cache_bytes=cache_bytes, report=report
    )
    save_head(head, output, texts={"card.json": card.model_dump_json(indent=1) + "\n"})
    return card


def _longest(target: FrozenTarget, recipe: HeadRecipe) -> int:
    context_tokens: int = target.model.config.get_text_config().max_position_embeddings
    return min(recipe.sequence_tokens, context_tokens)


def cache_features(
    target: FrozenTarget,
    sequences: list[TokenSequence],
    *,
    folder: Path,
    most_bytes: int,
    is_exact: bool,
    report: Callable[[int, int], None],
) -> FeatureCache:
    """Compute the target's features of a text, or find them in `folder`.

    Text to train on does with coarse features; text to judge by asks for exact ones.
    """
    cache = FeatureCache(folder)
    cache.fill(
        sequences,
        target.features if is_exact else target.coarse_features,
        facts=CacheFacts(target_sha256=target.sha256, text_sha256=text_digest(sequences)),
        feature_size=target.embedding.shape[1],
        most_bytes=most_bytes,
        progress=report,
    )
    return cache


def learn_and_judge(
    target: FrozenTarget,
    split: Split,
    recipe: HeadRecipe,
    *,
    work: Path,
    cache_bytes: int,
    report: Reporter,
) -> tuple[DovetailHead, HeadCard]:
    """Train a head on one part of the text and judge it on the other; resumes from `work`.

    Returns:
        The head with the weights as they ship, and its card.
    """
    training = cache_features(
        target,
        split.training,
        folder=work / "features-training",
        most_bytes=int(cache_bytes * (1 - HELD_OUT_SHARE)),
        is_exact=False,
        report=partial(report, "features to train on"),
    )
    head, seconds = fit(target, training, recipe, work=work, report=report)
    held_out = cache_features(
        target,
        split.held_out,
        folder=work / "features-held-out",
        most_bytes=int(cache_bytes * HELD_OUT_SHARE),
        is_exact=True,
        report=partial(report, "features to judge by"),
    )
    head = rounded(head)
    acceptance = judge(head, target, held_out)
    tokens = training.num_tokens
    card = HeadCard(
        recipe=recipe,
        target_sha256=target.sha256,
        text_sha256=text_digest(split.training),
        num_parameters=sum(parameter.numel() for parameter in head.parameters()),
        num_cached_tokens=tokens,
        num_training_tokens=round(
            recipe.num_steps * recipe.batch_sequences * tokens / len(training)
        ),
        training_seconds=round(seconds, 1),
        num_threads=torch.get_num_threads(),
        num_judged=acceptance.num_reached,
        acceptance_fractions=tuple(round(share, 4) for share in acceptance.fractions),
    )
    return head, card


def fit(
    target: FrozenTarget, cache: FeatureCache, recipe: HeadRecipe, *, work: Path, report: Reporter
) -> tuple[DovetailHead, float]:
    """Train a fresh head, or go on where `work` stands; return it and the seconds it took."""
    torch.manual_seed(recipe.seed)
    head = DovetailHead(target.head_config(recipe)).to(target.embedding.device)
    seconds = train_head(
        head,
        FrozenEnds(target.embedding, target.output_head),
        cache,
        recipe,
        checkpoint=work / "head.pt",
        progress=lambda done, total, loss: report("head", done, total, loss),
    )
    return head, seconds


def judge(head: DovetailHead, target: FrozenTarget, cache: FeatureCache) -> Acceptance:
    """Return the acceptance of the head's chains over all sequences of `cache`."""
    total = Acceptance()
    device = target.embedding.device
    for number in range(len(cache)):
        example = cache[number]
        total += head_acceptance(
            head,
            embedding=target.embedding,
            output_head=target.output_head,
            ids=example.ids.to(device),
            features=example.features.to(device).float(),
            mask=example.mask.to(device),
        )
    return total


def rounded(head: DovetailHead) -> DovetailHead:
    """Return a copy whose weights have the values that bfloat16 files keep."""
    copy = DovetailHead(head.config)
    copy.load_state_dict({name: value.bfloat16() for name, value in head.state_dict().items()})
    copy.train(mode=False)
    return copy.to(next(head.parameters()).device)


def text_digest(sequences: list[TokenSequence]) -> str:
    """Return the SHA-256 over the sequences' lengths, ids and masks."""
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(len(sequence.ids).to_bytes(8, "little"))
        digest.update(sequence.ids.tobytes() + sequence.mask.tobytes())
    return digest.hexdigest()
