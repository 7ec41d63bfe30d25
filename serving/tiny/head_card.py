"""What the family's head is measured to bring, beside the small model: card and README."""

from typing import Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from serving.draft_training.training import HeadCard


class DraftFigures(StrictModel):
    """One way of drafting: how deep its chains hold, and what a round of them costs."""

    text_fractions: tuple[float, ...]
    """Accepted at each depth of the chains that reached it, on held-out text."""
    continuation_fractions: tuple[float, ...]
    """The same where the target itself wrote the text, greedily, behind held-out prefixes."""
    seconds_by_draft_tokens: dict[int, float]
    """Processor time of all draft steps of a round, by the tokens it drafts."""

    def accepted(self, draft_tokens: int) -> float:
        """Return the expected accepted tokens of a greedy round of so many drafted ones."""
        total, reached = 0.0, 1.0
        for fraction in self.continuation_fractions[:draft_tokens]:
            reached *= fraction
            total += reached
        return total


class DraftComparison(StrictModel):
    """The head beside the small model, on one machine and one text."""

    num_text_tokens: int = Field(gt=0)
    """Held-out tokens judged on."""
    num_continuation_tokens: int = Field(gt=0)
    """Tokens the target wrote greedily."""
    target_step_seconds: float = Field(gt=0)
    """Processor time of one target step at one row."""
    head: DraftFigures
    """The Dovetail head."""
    small_model: DraftFigures
    """The family's draft."""
    hardware: str
    """Where it was measured: processor, threads, number format."""

    @model_validator(mode="after")
    def _same_rounds(self) -> Self:
        ours, theirs = self.head.seconds_by_draft_tokens, self.small_model.seconds_by_draft_tokens
        if set(ours) != set(theirs):
            raise ValueError(
                f"head has rounds of {sorted(ours)}, small_model of {sorted(theirs)}; measure again"
            )
        return self

    def cost(self, figures: DraftFigures, draft_tokens: int) -> float:
        """Return what the drafting of a round costs in target steps at one row."""
        return figures.seconds_by_draft_tokens[draft_tokens] / self.target_step_seconds


class TinyHeadCard(StrictModel):
    """The head's `card.json` in the family."""

    training: HeadCard
    """How it was trained."""
    comparison: DraftComparison
    """How it fares."""


def render_head_readme(card: TinyHeadCard) -> str:
    """Return the head's README as Markdown."""
    training, comparison = card.training, card.comparison
    recipe = training.recipe
    return _README.format(
        layers="one decoder layer" if recipe.num_layers == 1 else f"{recipe.num_layers} layers",
        parameters=training.num_parameters,
        steps=recipe.num_steps,
        seen=training.num_training_tokens / 1e6,
        cached=training.num_cached_tokens / 1e6,
        minutes=training.training_seconds / 60,
        threads=training.num_threads,
        feature_weight=recipe.feature_weight,
        token_weight=recipe.token_weight,
        depths=recipe.num_depths,
        sha=training.target_sha256[:12],
        text_tokens=comparison.num_text_tokens,
        continuation_tokens=comparison.num_continuation_tokens,
        acceptance=acceptance_table(comparison),
        costs=cost_table(comparison),
        hardware=comparison.hardware,
    )


_README = """\
---
license: apache-2.0
---
# The tiny family's Dovetail head

Drafts for `../target` from that model's own last hidden states: gating fusion of feature and next
token, then {layers}; the target's embedding and head are used as they are and not in here.
{parameters:,} weights in bfloat16. It fits the target whose weights have the digest `{sha}…` and no
other. `config.json` has its shape, `card.json` its recipe and all figures below.

Trained in {steps:,} steps on {seen:.1f} M tokens ({cached:.1f} M different ones) of the family's
training text, {minutes:.0f} minutes on {threads} CPU thread(s); loss {feature_weight:g} x SmoothL1 of the
features + {token_weight:g} x cross-entropy of the tokens, chains unrolled to depth {depths}.

## Acceptance by depth

Share of guesses accepted at a depth, of the chains that reached it, each chain feeding back its own
features: on the first 1,024 tokens of the family's held-out files ({text_tokens:,} tokens, a chain
behind each), and on what the target writes greedily behind the first 64 tokens of those files ({continuation_tokens:,} tokens), which
is the acceptance of greedy decoding.

{acceptance}

## Cost

A round of k drafted tokens, in target steps at one row: the head first takes in three verified rows
with true features, the small model two, then each drafts on row by row. Accepted is the expected number of accepted tokens in greedy
decoding.

{costs}

Measured on {hardware}, processor time, 128 tokens of past.

## Rebuild

    motley serve train-tiny --stage head --output FOLDER

trains the head for the target in FOLDER, the family's folder, and measures it and the small model
anew. It resumes where it was interrupted.
"""


def acceptance_table(comparison: DraftComparison) -> str:
    """Return acceptance by depth of both drafts as a Markdown table."""
    head, small = comparison.head, comparison.small_model
    lines = ["| depth | head, text | small model, text | head, greedy | small model, greedy |"]
    lines.append("|---|---|---|---|---|")
    columns = (
        head.text_fractions,
        small.text_fractions,
        head.continuation_fractions,
        small.continuation_fractions,
    )
    for depth, row in enumerate(zip(*columns, strict=True), start=1):
        lines.append(f"| {depth} | " + " | ".join(f"{share:.3f}" for share in row) + " |")
    return "\n".join(lines)


def cost_table(comparison: DraftComparison) -> str:
    """Return accepted tokens and cost of rounds of both drafts as a Markdown table."""
    lines = [
        "| k | head: accepted | cost | accepted / cost | small: accepted | cost | accepted / cost |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for count in sorted(comparison.head.seconds_by_draft_tokens):
        cells = []
        for figures in (comparison.head, comparison.small_model):
            accepted, cost = figures.accepted(count), comparison.cost(figures, count)
            cells.append(f"{accepted:.2f} | {cost:.3f} | {accepted / cost:.1f}")
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
