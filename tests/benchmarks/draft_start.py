"""Which layers of the target the tiny draft should start as, told by short distillations.

Every triple (0, i, last) with i from 2 to 9 is distilled once, from one seed, for 3 % of the
recipe's steps on the first 19/20 of the training stream, and judged by its greedy agreement on
windows of the rest: text that the shipped target has seen and these drafts have not. The held-out
files stay unseen. Differences of about 0.015 are within what another seed may change.
"""

import tempfile
from pathlib import Path

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
from serving.tiny.family import new_draft
from serving.tiny.recipe import Recipe
from serving.tiny.text import tokenize
from serving.tiny.trainer import train

FAMILY = Path(__file__).parents[2] / "serving" / "models" / "tiny"
MIDDLE_LAYERS = range(2, 10)
STEPS = 150
JUDGED_WINDOWS = 24


def run() -> list[dict[str, int | float]]:
    """Distil every candidate and print the table."""
    torch.set_num_threads(1)
    recipe = Recipe()
    target = load_model(FAMILY / "target")
    last = recipe.target.num_layers - 1
    stream = tokenize(split(read_sources(standard_library())), recipe).training_stream(recipe)
    cut = len(stream) * 19 // 20
    judged = stream[cut : cut + JUDGED_WINDOWS * recipe.context_tokens + 1]
    rows: list[dict[str, int | float]] = []
    for middle in MIDDLE_LAYERS:
        candidate = recipe.model_copy(
            update={
                "draft_start_layers": (0, middle, last),
                "draft_schedule": recipe.draft_schedule.model_copy(
                    update={"num_steps": STEPS, "warmup_steps": STEPS // 10}
                ),
            }
        )
        agreement = _agreement(candidate, target, training=stream[:cut], judged=judged)
        rows.append({"middle_layer": middle, "agreement_fraction": agreement})
    _show(rows, last=last)
    return rows


def _agreement(
    recipe: Recipe, target: LlamaForCausalLM, *, training: TokenIds, judged: TokenIds
) -> float:
    batches = Batches(training, seed=recipe.seed + 1)
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


def _show(rows: list[dict[str, int | float]], *, last: int) -> None:
    table = Table(
        title=f"draft of layers (0, i, {last}) after {STEPS} steps, on text it has not seen"
    )
    for heading in rows[0]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(str(row["middle_layer"]), f"{row['agreement_fraction']:.3f}")
    Console().print(table)
