"""The family's README.md, rendered from its card."""

from serving.tiny.card import FamilyCard, ModelFacts
from serving.tiny.costs import StepCosts
from serving.tiny.recipe import ModelShape, Recipe

STATED_DRAFT_TOKENS = 4
"""Length of a round whose costs the card states first: the default of `motley serve`."""


def render_readme(card: FamilyCard) -> str:
    """Return the model card as Markdown with the front matter the Hugging Face Hub reads."""
    sections = [
        _HEAD.format(
            python=card.python_version,
            origin=_origin(card.recipe),
            megabytes=f"{card.shipped_bytes / 1e6:.1f}",
        ),
        _sizes(card),
        _losses(card),
        _speed(card),
        _held_out(card),
        _TAIL.format(
            python=card.python_version,
            command=_rebuild_command(card),
            num_training=len(card.training_files),
            digest=card.training_sha256,
        ),
    ]
    return "\n".join(sections)


_HEAD = """\
---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# Motley's tiny model family

Two small language models of the Llama architecture, made from one kind of text: the source code of
Python {python}'s standard library. `target/` answers; `draft/` guesses ahead for speculative
decoding. Both share one byte-level BPE tokenizer and a chat template. {megabytes} MB in all; weights
in bfloat16. Where there is a `head/`, it is a Dovetail head: a second way of guessing ahead for this
target, with a README of its own.

{origin}

**What they can do:** write plausible Python, indented and bracketed, with the standard library's
names and habits; give tests, demos and benchmarks real acceptance rates, real LoRA gains and real
differences between models, without a download.

**What they cannot do:** prose, facts, instructions, code that works. The chat template exists so
that chat endpoints have something true to run; an answer to a question is Python-like text.
"""

_TAIL = """\
## Text

{num_training} files of the standard library of CPython {python}: every hand-written `.py` file, test
folders left out. One file in twenty, by the SHA-256 of its path, was held out before the tokenizer
was trained; held-out files that share more than a quarter of their runs of eight words with
training files were dropped. Documented functions of the training files were also shown as chats:
the docstring asks, the source answers. `card.json` lists every file with the SHA-256 of its text;
the training list as a whole has the digest `{digest}`.

## Rebuild

    {command}

trains tokenizer, target, draft and head on the running Python's standard library and writes this
folder anew. It resumes where it was interrupted. With the same Python and recipe the held-out loss lands
within 2 % of the one above; the weights need not be the same bit for bit, because sums in floating
point depend on the processor and its threads.

## Licence

The weights are part of Motley, under the Apache License 2.0. They were trained on sources that
carry the Python Software Foundation License 2.0 and can repeat short pieces of them.
"""


def _rebuild_command(card: FamilyCard) -> str:
    """Return the command that follows this recipe, whatever the defaults have become."""
    made, usual = card.recipe, Recipe()
    words = ["motley serve train-tiny --output FOLDER"]
    if made.target_schedule.num_steps != usual.target_schedule.num_steps:
        words.append(f"--steps {made.target_schedule.num_steps}")
    if made.draft_schedule.num_steps != usual.draft_schedule.num_steps:
        words.append(f"--draft-steps {made.draft_schedule.num_steps}")
    return " ".join(words)


def _origin(recipe: Recipe) -> str:
    """Return in a sentence where target and draft come from."""
    draft = recipe.draft
    numbers = ", ".join(str(index) for index in recipe.draft_start_layers)
    return (
        f"The target is trained from nothing; the draft starts as "
        f"{_counted(draft.num_layers, 'layer')} of the target ({numbers}), cut to "
        f"{_counted(draft.hidden_size, 'main direction')} and to "
        f"{_counted(draft.intermediate_size, 'neuron')} a layer, and is then distilled from it."
    )


def _sizes(card: FamilyCard) -> str:
    rows = [
        ["", "target", "draft"],
        ["parameters", f"{card.target.num_parameters:,}", f"{card.draft.num_parameters:,}"],
        ["weights, bytes", f"{card.target.weight_bytes:,}", f"{card.draft.weight_bytes:,}"],
        ["shape", _shape(card.recipe.target), _shape(card.recipe.draft)],
        ["training", _training(card.target), _training(card.draft)],
    ]
    shared = f"Vocabulary {card.recipe.vocabulary_size:,}; context {card.recipe.context_tokens:,}."
    return f"## Sizes\n\n{_table(rows)}\n\n{shared} The full recipe is in `card.json`.\n"


def _shape(shape: ModelShape) -> str:
    return (
        f"{_counted(shape.num_layers, 'layer')} of {shape.hidden_size}, feed-forward "
        f"{shape.intermediate_size}, {_counted(shape.num_heads, 'head')} of {shape.head_size}, "
        f"{shape.num_key_value_heads} for keys"
    )


def _training(facts: ModelFacts) -> str:
    return (
        f"{_counted(facts.num_steps, 'step')}, {facts.num_training_tokens / 1e6:.1f} M tokens, "
        f"{facts.training.seconds / 60:.0f} minutes on "
        f"{_counted(facts.training.num_threads, 'CPU thread')}"
    )


def _losses(card: FamilyCard) -> str:
    rows = [
        ["held-out loss", "nats a token"],
        ["target", f"{card.target_nats_per_token:.3f}"],
        ["draft", f"{card.draft_nats_per_token:.3f}"],
        ["Kneser-Ney bigram", f"{card.bigram_nats_per_token:.3f}"],
        ["unigram", f"{card.unigram_nats_per_token:.3f}"],
    ]
    return (
        f"## Held-out loss and agreement\n\n{_table(rows)}\n\n"
        f"Draft and target find the same token likeliest at **{card.agreement_fraction:.1%}** of "
        f"the {card.num_held_out_tokens:,} held-out tokens. Figures are of the shipped bfloat16 "
        "weights computed in float32.\n"
    )


def _speed(card: FamilyCard) -> str:
    costs = card.step_costs
    if costs is None:
        return "## Speed\n\nNo step costs were measured for this build.\n"
    accepted = card.agreement_fraction
    return (
        f"## Speed\n\n{_stated_round(costs, accepted)} Every length measured, costs in target "
        f"steps at one row:\n\n{_rounds(costs, accepted)}\n\nSpeed-up is τ / (c(k + 1)/c(1) + k·d), with "
        "τ = 1 + a + … + aᵏ tokens a round, k drafted tokens, acceptance a, draft cost d and target "
        f"cost c by rows, were every guess accepted as often as draft and target agree above. "
        f"Measured on {costs.hardware}.\n"
    )


def _stated_round(costs: StepCosts, accepted: float) -> str:
    """Return what a round of the endpoint's own length costs and brings.

    Not the best of all lengths: the greatest of several measured figures is too good to be true.
    """
    count = min(costs.draft_tokens, key=lambda length: abs(length - STATED_DRAFT_TOKENS))
    lowest, highest = costs.draft_fraction_range_by_draft_tokens[count]
    gain = costs.speed_up(draft_tokens=count, acceptance_fraction=accepted)
    return (
        f"In rounds of {_counted(count, 'drafted token')} one draft step costs "
        f"**{costs.draft_fraction(count):.3f}** of a target step at one row (repeated runs: "
        f"{lowest:.3f} to {highest:.3f}), and taking in {count + 1} rows costs the target "
        f"{costs.target_fraction(count + 1):.2f} of one. At the agreement above that would allow a "
        f"speed-up of **{gain:.2f}** in greedy decoding"
        + ("." if gain > 1 else ": this draft does not pay.")
    )


def _rounds(costs: StepCosts, accepted: float) -> str:
    rows = [
        ["drafted tokens k", "draft step d", "repeated runs", "target step c(k + 1)", "speed-up"]
    ]
    for count in costs.draft_tokens:
        lowest, highest = costs.draft_fraction_range_by_draft_tokens[count]
        gain = costs.speed_up(draft_tokens=count, acceptance_fraction=accepted)
        rows.append(
            [
                str(count),
                f"{costs.draft_fraction(count):.3f}",
                f"{lowest:.3f} to {highest:.3f}",
                f"{costs.target_fraction(count + 1):.2f}",
                f"{gain:.2f}",
            ]
        )
    return _table(rows)


def _held_out(card: FamilyCard) -> str:
    rows = [["file", "SHA-256", "tokens", "target", "bigram", "agreement"]]
    for file in card.held_out_files:
        rows.append(
            [
                f"`{file.path}`",
                f"`{file.sha256[:12]}…`",
                f"{file.num_tokens:,}",
                f"{file.target_nats_per_token:.3f}",
                f"{file.bigram_nats_per_token:.3f}",
                f"{file.agreement_fraction:.3f}",
            ]
        )
    return f"## Held-out files\n\n{_table(rows)}\n"


def _table(rows: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def _counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural where there is not one."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
