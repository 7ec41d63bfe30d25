"""Makes the tiny family: corpus, tokenizer, target, distilled draft, model card."""

import platform
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from planner.errors import DocumentError
from serving.draft_training.training import Reporter
from serving.tiny.batches import Batches
from serving.tiny.corpus import Corpus
from serving.tiny.costs import Measure
from serving.tiny.distill import distillation
from serving.tiny.head import make_head
from serving.tiny.recipe import ModelShape, Recipe
from serving.tiny.release import FamilySources, refuse_foreign, write_family
from serving.tiny.shrink import start_draft
from serving.tiny.text import TokenizedText, tokenize
from serving.tiny.trainer import Progress, initialise, train
from serving.tiny.work import Role, WorkFolder, schedule_of

FamilyProgress = Callable[[str, int, int, float], None]
"""Called after each training step with the role, the steps done, the steps in all and the loss."""


class Stage(StrEnum):
    """Parts of the work, in order; each stands on the ones before it."""

    ALL = "all"
    TARGET = "target"
    DRAFT = "draft"
    CARD = "card"
    HEAD = "head"


def make_family(
    recipe: Recipe,
    *,
    corpus: Corpus,
    work: WorkFolder,
    output: Path,
    stage: Stage,
    progress: FamilyProgress,
    measure: Measure | None,
    report_head: Reporter | None = None,
) -> None:
    """Train the family and write it, with its card, to the folder `output`.

    Whatever `work` already holds is resumed or taken as it is.

    Args:
        recipe: Shapes, seeds and schedules.
        corpus: The text.
        work: Where checkpoints live.
        output: Replaced as a whole at the end; untouched by the stages `target` and `draft`.
        stage: What to do; `all` does everything that is not done yet.
        progress: Told of every training step.
        measure: Measures step costs for the card; None leaves them out.
        report_head: Told how the head's training goes; None leaves out the head.

    Raises:
        ModelError: If the stage is `head` and `output` holds no target.
        DocumentError: If `work` belongs to another recipe, an earlier stage is not finished, or
            `output` holds files of no family.
    """
    refuse_foreign(output)
    work.claim(recipe, training_sha256=corpus.digest)
    text = tokenize(corpus, recipe)
    if stage in (Stage.ALL, Stage.TARGET):
        train_target(text, recipe, work=work, progress=progress)
    if stage in (Stage.ALL, Stage.DRAFT):
        train_draft(text, recipe, work=work, progress=progress)
    if stage in (Stage.ALL, Stage.CARD):
        sources = FamilySources(
            recipe=recipe,
            text=text,
            target=finished_model(recipe, "target", work=work),
            draft=finished_model(recipe, "draft", work=work),
            times=work.times(),
            python_version=platform.python_version(),
        )
        write_family(sources, output=output, measure=measure)
    if report_head is not None and stage in (Stage.ALL, Stage.HEAD):
        make_head(text, recipe, family=output, work=work.path / "head", report=report_head)


def train_target(
    text: TokenizedText, recipe: Recipe, *, work: WorkFolder, progress: FamilyProgress
) -> None:
    """Train the target on the text; resumes from `work`."""
    if _is_finished(recipe, "target", work=work):
        return
    torch.manual_seed(recipe.seed)
    model = _new_model(recipe.target, recipe)
    initialise(model)

    def loss_of(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    batches = Batches(text.training_stream(recipe), seed=recipe.seed)
    with work.timed("target") as tick:
        train(
            model,
            batches,
            recipe.target_schedule,
            loss_of=loss_of,
            checkpoint=work.checkpoint("target"),
            progress=_reporting("target", progress, tick),
        )


def train_draft(
    text: TokenizedText, recipe: Recipe, *, work: WorkFolder, progress: FamilyProgress
) -> None:
    """Distil the draft from the finished target; resumes from `work`."""
    if _is_finished(recipe, "draft", work=work):
        return
    target = finished_model(recipe, "target", work=work)
    batches = Batches(text.training_stream(recipe), seed=recipe.seed + 1)
    is_begun = work.checkpoint("draft").exists()
    draft = _new_model(recipe.draft, recipe) if is_begun else new_draft(recipe, target, batches)
    with work.timed("draft") as tick:
        train(
            draft,
            batches,
            recipe.draft_schedule,
            loss_of=distillation(draft, target, hard_fraction=recipe.draft_hard_fraction),
            checkpoint=work.checkpoint("draft"),
            progress=_reporting("draft", progress, tick),
        )


def new_draft(recipe: Recipe, target: LlamaForCausalLM, batches: Batches) -> LlamaForCausalLM:
    """Return the draft before its distillation: `target` made small, judged by the first batches.

    The batches have short sequences also where so few steps train that long ones come at once.
    """
    draft, schedule = _new_model(recipe.draft, recipe), recipe.draft_schedule
    sample = [
        batches.at(step, schedule, long_tokens=schedule.sequence_tokens)
        for step in range(recipe.draft_start_batches)
    ]
    start_draft(draft, target, layers=recipe.draft_start_layers, sample=sample)
    return draft


def _reporting(role: Role, progress: FamilyProgress, tick: Callable[[], None]) -> Progress:
    def report(done: int, total: int, loss: float) -> None:
        tick()
        progress(role, done, total, loss)

    return report


def finished_model(recipe: Recipe, role: Role, *, work: WorkFolder) -> LlamaForCausalLM:
    """Return the trained model of `role`, in evaluation mode.

    Raises:
        DocumentError: If its training is not finished.
    """
    if not _is_finished(recipe, role, work=work):
        total = schedule_of(recipe, role).num_steps
        problem = f"stands at step {work.steps_done(role)} of {total}; run --stage {role} first"
        raise DocumentError(work.checkpoint(role), problem)
    model = _new_model(recipe.target if role == "target" else recipe.draft, recipe)
    state = torch.load(work.checkpoint(role), weights_only=True)
    model.load_state_dict(state["model"])
    model.train(mode=False)
    return model


def _is_finished(recipe: Recipe, role: Role, *, work: WorkFolder) -> bool:
    return work.steps_done(role) >= schedule_of(recipe, role).num_steps


def _new_model(shape: ModelShape, recipe: Recipe) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        shape.llama(vocabulary_size=recipe.vocabulary_size, context_tokens=recipe.context_tokens)
    )
