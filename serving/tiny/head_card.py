"""What the family's head is measured to bring, beside the small model: card and README."""

from pydantic import Field

from planner.config import StrictModel
from serving.draft_training.training import HeadCard


class RoundFigures(StrictModel):
    """Rounds of one length, as decoding runs them."""

    accepted: float = Field(ge=0)
    """Mean accepted tokens of a round."""
    seconds: float = Field(gt=0)
    """Median processor time of a round's drafting."""


class DraftFigures(StrictModel):
    """One way of drafting: how deep its chains hold, and what a round of them brings and costs."""

    text_fractions: tuple[float, ...]
    """Accepted at each depth of the chains that reached it, on held-out text."""
    greedy_fractions: tuple[float, ...]
    """The same where the target itself wrote the text, greedily, behind held-out prefixes."""
    greedy_rounds: dict[int, RoundFigures]
    """Rounds along some of those texts, by the tokens they draft."""
    drawn_rounds: dict[int, RoundFigures]
    """The same along texts that the target drew at temperature 0.8."""


class DraftComparison(StrictModel):
    """The head beside the small model, on one machine and one text."""

    num_text_tokens: int = Field(gt=0)
    """Held-out tokens judged on."""
    num_greedy_tokens: int = Field(gt=0)
    """Tokens the target wrote greedily."""
    target_step_seconds: float = Field(gt=0)
    """Processor time of one target step at one row."""
    head: DraftFigures
    """The Dovetail head."""
    small_model: DraftFigures
    """The family's draft."""
    hardware: str
    """Where it was measured: processor, threads, number format."""

    def per_cost(self, figures: RoundFigures) -> float:
        """Return accepted tokens for drafting that costs as much as one target step at one row."""
        return figures.accepted / self.cost(figures)

    def cost(self, figures: RoundFigures) -> float:
        """Return what the drafting of a round costs in target steps at one row."""
        return figures.seconds / self.target_step_seconds


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
        deep=recipe.deep_fraction,
        sha=training.target_sha256[:12],
        text_tokens=comparison.num_text_tokens,
        greedy_tokens=comparison.num_greedy_tokens,
        acceptance=acceptance_table(comparison),
        greedy_costs=cost_table(comparison, is_greedy=True),
        drawn_costs=cost_table(comparison, is_greedy=False),
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

Trained in {steps:,} steps on {seen:.1f} M tokens ({cached:.1f} M different ones) of the family's training
text, {minutes:.0f} minutes at {threads} CPU thread; loss {feature_weight:g} x SmoothL1 of the features + {token_weight:g} x
cross-entropy of the tokens; the last {deep:.0%} of the steps unroll chains to depth {depths}.

## Acceptance by depth

Share of guesses accepted at a depth, of the chains that reached it, each chain feeding back its own
features. *Text*: the first 1,024 tokens of the family's held-out files ({text_tokens:,} tokens, a chain
behind each). *Greedy*: what the target writes greedily behind the first 64 tokens of those files
({greedy_tokens:,} tokens), which is the acceptance of greedy decoding.

{acceptance}

## Cost

The target's own texts decoded again in rounds of k drafted tokens, a target step before each: mean
accepted tokens of a round, processor time of its drafting in target steps at one row, and the one
over the other.

Greedy text:

{greedy_costs}

Text drawn at temperature 0.8:

{drawn_costs}

Measured on {hardware}.

## Rebuild

    motley serve train-tiny --stage head --output FOLDER

trains the head for the target in FOLDER, the family's folder, and measures it and the small model
anew; it resumes where it was interrupted. `make bench NAME=draft-head` measures without training.
"""


def acceptance_table(comparison: DraftComparison) -> str:
    """Return acceptance by depth of both drafts as a Markdown table."""
    head, small = comparison.head, comparison.small_model
    lines = ["| depth | head, text | small model, text | head, greedy | small model, greedy |"]
    lines.append("|---|---|---|---|---|")
    columns = (
        head.text_fractions,
        small.text_fractions,
        head.greedy_fractions,
        small.greedy_fractions,
    )
    for depth, row in enumerate(zip(*columns, strict=True), start=1):
        lines.append(f"| {depth} | " + " | ".join(f"{share:.3f}" for share in row) + " |")
    return "\n".join(lines)


def cost_table(comparison: DraftComparison, *, is_greedy: bool) -> str:
    """Return accepted tokens and cost of rounds of both drafts as a Markdown table."""
    columns = [f"{name}: accepted | cost | accepted / cost" for name in ("head", "small")]
    lines = [f"| k | {' | '.join(columns)} |", "|---|---|---|---|---|---|---|"]
    both = (comparison.head, comparison.small_model)
    rounds = [part.greedy_rounds if is_greedy else part.drawn_rounds for part in both]
    for count in sorted(rounds[0]):
        cells = [
            f"{part[count].accepted:.2f} | {comparison.cost(part[count]):.3f} | "
            f"{comparison.per_cost(part[count]):.1f}"
            for part in rounds
        ]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
