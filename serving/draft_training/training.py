"""`motley serve train-draft` from model and text to a head's folder."""

import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Caches:
    """Features of the text trained on and of the text judged by."""

    training: FeatureCache
    held_out: FeatureCache
    text_sha256: str


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
    caches = cache_features(target, split, work=work, cache_bytes=cache_bytes, report=report)
    head, seconds = fit(target, caches, recipe, work=work, report=report)
    card = make_card(head, target, caches, recipe, seconds=seconds)
    save_head(head, output, texts={"card.json": card.model_dump_json(indent=1) + "\n"})
    return card


def _longest(target: FrozenTarget, recipe: HeadRecipe) -> int:
    context_tokens: int = target.model.config.get_text_config().max_position_embeddings
    return min(recipe.sequence_tokens, context_tokens)


def cache_features(
    target: FrozenTarget, split: Split, *, work: Path, cache_bytes: int, report: Reporter
) -> Caches:
    """Compute the target's features of both parts of the text, or find them in `work`."""
    rooms = {"training": 1 - HELD_OUT_SHARE, "held-out": HELD_OUT_SHARE}
    parts = {"training": split.training, "held-out": split.held_out}
    caches = {}
    for name, sequences in parts.items():
        caches[name] = FeatureCache(work / f"features-{name}")
        facts = CacheFacts(target_sha256=target.sha256, text_sha256=_digest(sequences))
        caches[name].fill(
            sequences,
            target.coarse_features if name == "training" else target.features,
            facts=facts,
            feature_size=target.embedding.shape[1],
            most_bytes=int(cache_bytes * rooms[name]),
            progress=lambda done, total, name=name: report(f"features, {name}", done, total),  # type: ignore[misc]
        )
    return Caches(caches["training"], caches["held-out"], _digest(split.training))


def fit(
    target: FrozenTarget, caches: Caches, recipe: HeadRecipe, *, work: Path, report: Reporter
) -> tuple[DovetailHead, float]:
    """Train a fresh head, or go on where `work` stands; return it and the seconds it took."""
    torch.manual_seed(recipe.seed)
    head = DovetailHead(target.head_config(recipe)).to(target.embedding.device)
    seconds = train_head(
        head,
        FrozenEnds(target.embedding, target.output_head),
        caches.training,
        recipe,
        checkpoint=work / "head.pt",
        progress=lambda done, total, loss: report("head", done, total, loss),
    )
    return head, seconds


def make_card(
    head: DovetailHead,
    target: FrozenTarget,
    caches: Caches,
    recipe: HeadRecipe,
    *,
    seconds: float,
) -> HeadCard:
    """Judge the head, rounded as it ships, on the held-out text and return its card."""
    acceptance = judge(rounded(head), target, caches.held_out)
    tokens = caches.training.num_tokens
    per_step = recipe.batch_sequences * tokens / len(caches.training)
    return HeadCard(
        recipe=recipe,
        target_sha256=target.sha256,
        text_sha256=caches.text_sha256,
        num_parameters=sum(parameter.numel() for parameter in head.parameters()),
        num_cached_tokens=tokens,
        num_training_tokens=round(recipe.num_steps * per_step),
        training_seconds=round(seconds, 1),
        num_threads=torch.get_num_threads(),
        num_judged=acceptance.num_reached,
        acceptance_fractions=tuple(round(share, 4) for share in acceptance.fractions),
    )


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


def _digest(sequences: list[TokenSequence]) -> str:
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(len(sequence.ids).to_bytes(8, "little"))
        digest.update(sequence.ids.tobytes() + sequence.mask.tobytes())
    return digest.hexdigest()
