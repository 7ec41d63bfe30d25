"""Judges the trained models and writes the family folder: models, README.md and card.json."""

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from transformers import LlamaForCausalLM

from planner.documents import write_atomically
from planner.errors import DocumentError
from serving.tiny.bigram import CountModels, count_models
from serving.tiny.card import FamilyCard, HeldOutFile, ModelFacts, TrainingFile, TrainingTime
from serving.tiny.costs import Measure
from serving.tiny.evaluate import score
from serving.tiny.export import WEIGHTS, export_model, load_model, shipped_files
from serving.tiny.readme import render_readme
from serving.tiny.recipe import Recipe, Schedule
from serving.tiny.text import TokenizedText
from serving.tiny.work import WorkTimes

logger = logging.getLogger(__name__)

CARD = "card.json"
README = "README.md"
FAMILY_ENTRIES = frozenset({"target", "draft", "head", CARD, README})
"""What a family folder holds, and all that a new one may replace."""


@dataclass(frozen=True, slots=True)
class FamilySources:
    """What a family folder is made from."""

    recipe: Recipe
    text: TokenizedText
    target: LlamaForCausalLM
    draft: LlamaForCausalLM
    times: WorkTimes
    python_version: str


def refuse_foreign(output: Path) -> None:
    """Check that writing a family to `output` destroys nothing else.

    Raises:
        DocumentError: If `output` is a file, or a folder that holds anything but a family.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise DocumentError(output, "is a file; name a folder")
    foreign = sorted(path.name for path in output.iterdir() if path.name not in FAMILY_ENTRIES)
    if foreign:
        raise DocumentError(output, f"also holds {foreign[0]!r}; move it, or name another folder")


def write_family(sources: FamilySources, *, output: Path, measure: Measure | None) -> FamilyCard:
    """Write models and card beside `output` under a temporary name, then swap the folders.

    The card's figures are of the rounded weights as written.

    Raises:
        DocumentError: If `output` holds anything but a family.
    """
    output = output.resolve()
    refuse_foreign(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        folder = Path(scratch) / "family"
        folder.mkdir()
        tokenizer = sources.text.tokenizer
        export_model(sources.target, tokenizer, folder=folder / "target")
        export_model(sources.draft, tokenizer, folder=folder / "draft")
        card = make_card(sources, folder=folder, measure=measure)
        write_atomically(folder / CARD, card.model_dump_json(indent=1) + "\n")
        write_atomically(folder / README, render_readme(card))
        if output.exists():
            output.rename(Path(scratch) / "replaced")
        folder.rename(output)
    logger.info(
        "family folder=%s target_nats_per_token=%.4f bigram_nats_per_token=%.4f "
        "agreement_fraction=%.4f shipped_bytes=%d",
        output,
        card.target_nats_per_token,
        card.bigram_nats_per_token,
        card.agreement_fraction,
        card.shipped_bytes,
    )
    return card


def make_card(sources: FamilySources, *, folder: Path, measure: Measure | None) -> FamilyCard:
    """Judge the models written in `folder` on the held-out files and return their card."""
    recipe, times = sources.recipe, sources.times
    corpus = sources.text.corpus
    counts = count_models(
        sources.text.documents(corpus.training), vocabulary_size=recipe.vocabulary_size
    )
    target, draft = load_model(folder / "target"), load_model(folder / "draft")
    return FamilyCard(
        python_version=sources.python_version,
        recipe=recipe,
        target=_facts(target, folder / "target", recipe.target_schedule, times.target),
        draft=_facts(draft, folder / "draft", recipe.draft_schedule, times.draft),
        step_costs=measure(folder / "target", folder / "draft") if measure else None,
        training_sha256=corpus.digest,
        held_out_files=list(judge(sources.text, target=target, draft=draft, counts=counts)),
        near_duplicate_paths=[file.path for file in corpus.near_duplicates],
        training_files=[
            TrainingFile(path=file.path, sha256=file.digest) for file in corpus.training
        ],
        shipped_files=list(shipped_files(folder)),
    )


def judge(
    text: TokenizedText, *, target: LlamaForCausalLM, draft: LlamaForCausalLM, counts: CountModels
) -> Iterator[HeldOutFile]:
    """Yield how the models fare on each held-out file of `text`."""
    files = text.corpus.held_out
    context_tokens = target.config.max_position_embeddings
    for file, ids in zip(files, text.documents(files), strict=True):
        result = score(target, draft, ids, context_tokens=context_tokens)
        logger.info("judged path=%s num_tokens=%d", file.path, result.num_tokens)
        yield HeldOutFile(
            path=file.path,
            sha256=file.digest,
            num_tokens=result.num_tokens,
            target_nats_per_token=result.target_nats_per_token,
            draft_nats_per_token=result.draft_nats_per_token,
            bigram_nats_per_token=float(counts.bigram_nats(ids).mean()),
            unigram_nats_per_token=float(counts.unigram_nats(ids).mean()),
            agreement_fraction=result.agreement_fraction,
        )


def _facts(
    model: LlamaForCausalLM, folder: Path, schedule: Schedule, training: TrainingTime
) -> ModelFacts:
    return ModelFacts(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        weight_bytes=(folder / WEIGHTS).stat().st_size,
        num_steps=schedule.num_steps,
        num_training_tokens=schedule.num_steps * schedule.tokens_per_step,
        training=training,
    )
