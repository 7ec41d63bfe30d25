"""Which layers of the target the tiny draft should start as, told by short distillations.

Every triple (0, i, 11) is distilled for as many steps on the first 19/20 of the training stream and
judged by its greedy agreement on windows of the rest: the held-out files stay unseen. The target
comes from the shipped family, or from the work folder in TINY_WORK.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaForCausalLM

from serving.tiny.batches import Batches
from serving.tiny.bigram import TokenIds
from serving.tiny.corpus import read_sources, split, standard_library
from serving.tiny.distill import distillation
from serving.tiny.evaluate import score
from serving.tiny.export import load_model
from serving.tiny.family import finished_model, new_draft
from serving.tiny.recipe import Recipe
from serving.tiny.text import tokenize
from serving.tiny.trainer import train
from serving.tiny.work import WorkFolder

FAMILY = Path(__file__).parents[2] / "serving" / "models" / "tiny"
MIDDLE_LAYERS = (2, 3, 4, 5, 6, 7, 8, 9)
STEPS = 150
JUDGED_WINDOWS = 24


def run() -> list[dict[str, float]]:
    """Distil every candidate and print the table."""
    torch.set_num_threads(1)
    recipe = Recipe()
    target = _target(recipe)
    stream = tokenize(split(read_sources(standard_library())), recipe).training_stream(recipe)
    cut = len(stream) * 19 // 20
    judged = stream[cut : cut + JUDGED_WINDOWS * recipe.context_tokens + 1]
    rows = []
    for middle in MIDDLE_LAYERS:
        candidate = recipe.model_copy(
            update={
                "draft_start_layers": (0, middle, 11),
                "draft_schedule": recipe.draft_schedule.model_copy(
                    update={"num_steps": STEPS, "warmup_steps": STEPS // 10}
                ),
            }
        )
        agreement = _agreement(candidate, target, training=stream[:cut], judged=judged)
        rows.append({"middle_layer": float(middle), "agreement_fraction": agreement})
        print(f"(0, {middle}, 11): {agreement:.3f}", flush=True)
    _show(rows)
    return rows


def _target(recipe: Recipe) -> LlamaForCausalLM:
    work = os.environ.get("TINY_WORK")
    if work:
        return finished_model(recipe, "target", work=WorkFolder(Path(work)))
    return load_model(FAMILY / "target")


def _agreement(
    recipe: Recipe, target: LlamaForCausalLM, *, training: TokenIds, judged: TokenIds
) -> float:
    torch.manual_seed(recipe.seed + 1)
    batches = Batches(np.asarray(training), seed=recipe.seed + 1)
    draft = new_draft(recipe, target, batches)
    with tempfile.TemporaryDirectory() as scratch:
        train(
            draft,
            batches,
            recipe.draft_schedule,
            loss_of=distillation(draft, target, hard_fraction=recipe.draft_hard_fraction),
            checkpoint=Path(scratch) / "draft.pt",
            progress=lambda done, total, loss: None,
        )
    draft.train(mode=False)
    result = score(target, draft, judged, context_tokens=recipe.context_tokens)
    return result.agreement_fraction


def _show(rows: list[dict[str, float]]) -> None:
    table = Table(title=f"draft of layers (0, i, 11) after {STEPS} steps, on unseen training text")
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(f"{row['middle_layer']:.0f}", f"{row['agreement_fraction']:.3f}")
    Console().print(table)
