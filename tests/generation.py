"""Texts from an engine over real models, and the drafters that must not change them."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.grammar import Grammar
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_tree_drafter import HeadTreeDrafter
from serving.engine.lean_head import LeanHead
from serving.engine.model import TargetModel, TokenModel
from serving.engine.model_drafter import ChainDrafter
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationOutput, GenerationRequest
from serving.engine.tree_drafter import TreeDrafter

HEAD_ROWS = 8 * 1024
"""Rows of the head's own memory."""


@dataclass(frozen=True, slots=True)
class Drafts:
    """What drafts with weights."""

    model: TokenModel
    head: LeanHead


@dataclass(frozen=True, slots=True)
class DrafterKind:
    """How a drafter is made, and its guesses a round."""

    make: Callable[[Drafts], Drafter]
    num_nodes: int


DRAFTERS: dict[str, DrafterKind] = {
    "chain": DrafterKind(lambda d: ChainDrafter(d.model), 4),
    "tree": DrafterKind(lambda d: TreeDrafter(d.model, beam_width=4, depth=4), 14),
    "head's chain": DrafterKind(lambda d: HeadChainDrafter(d.head, most_rows=HEAD_ROWS), 4),
    "head's tree": DrafterKind(
        lambda d: HeadTreeDrafter(d.head, most_rows=HEAD_ROWS, beam_width=4, depth=4), 14
    ),
    "n-gram": DrafterKind(lambda _: NgramDrafter(), 6),
}
"""One of each kind that the engine has; a new kind is one more line."""


def generate(
    target: TargetModel,
    drafter: Drafter | None,
    prompts: Sequence[Sequence[int]],
    *,
    num_draft_tokens: int = 4,
    max_sequences: int = 1,
    kv_bytes: int = 1 << 28,
    eos_ids: frozenset[int] = frozenset(),
    grammar: Grammar | None = None,
    **settings: Any,
) -> tuple[list[tuple[int, ...]], Engine]:
    """Return each prompt's text, seeded by its place, and the engine, which has become idle.

    `settings` are those of the sampling; greedy and 32 tokens where they say nothing else.
    """
    engine = Engine(
        target,
        drafter,
        num_draft_tokens=num_draft_tokens,
        limits=EngineLimits(kv_bytes=kv_bytes, max_sequences=max_sequences, max_waiting=10_000),
        eos_ids=eos_ids,
    )
    params = SamplingParams(**{"temperature": 0, "max_tokens": 32} | settings)
    texts: list[tuple[int, ...]] = [()] * len(prompts)
    for index, prompt in enumerate(prompts):
        engine.add(
            GenerationRequest(str(index), tuple(prompt), params, seed=index, grammar=grammar)
        )
    for output in outputs(engine):
        texts[int(output.request_id)] += output.tokens
    engine.check_idle()
    return texts, engine


def outputs(engine: Engine) -> Iterator[GenerationOutput]:
    """Step until nothing is left to do; yield what comes, none of it an error."""
    while engine.has_work:
        for output in engine.step():
            assert output.error is None, output.error
            yield output
