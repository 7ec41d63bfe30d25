"""Every drafter leaves the target's own text, greedy or seeded, alone and in a crowd."""

import functools
from collections.abc import Callable

import pytest
from generation import DrafterKind, generate

from serving.engine.model_drafter import ChainDrafter
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.tree_drafter import TreeDrafter

DRAFTERS: dict[str, DrafterKind] = {
    "chain": DrafterKind(lambda draft: ChainDrafter(draft, draws=False), 4),
    "n-gram": DrafterKind(lambda _: NgramDrafter(), 6),
    "tree 1x3": DrafterKind(lambda draft: TreeDrafter(draft, beam_width=1, depth=3), 3),
    "tree 2x6": DrafterKind(lambda draft: TreeDrafter(draft, beam_width=2, depth=4), 6),
    "tree 4x16": DrafterKind(lambda draft: TreeDrafter(draft, beam_width=4, depth=6), 16),
    "tree 8x40": DrafterKind(lambda draft: TreeDrafter(draft, beam_width=8, depth=3), 40),
}
"""Whose tokens are chosen, in several shapes."""

SETTINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1},
}


@pytest.fixture(scope="session")
def plain(target, prompts) -> Callable[[str], list[tuple[int, ...]]]:
    """Return the texts without drafting, one request at a time, by the settings' name."""
    return functools.cache(lambda name: generate(target, None, prompts[::2], **SETTINGS[name])[0])


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", DRAFTERS)
def test_the_text_does_not_depend_on_the_drafter(target, draft, prompts, plain, name, settings):
    """Batches of eight, and some prompts alone, give what the target gives undrafted."""
    expected = plain(settings)
    kind, fields = DRAFTERS[name], SETTINGS[settings]
    crowd, engine = generate(
        target,
        kind.make(draft),
        prompts[::2],
        num_draft_tokens=kind.num_nodes,
        max_sequences=8,
        **fields,
    )
    assert crowd == expected
    counters = engine.counters
    assert counters.accepted_tokens > 0
    assert sum(counters.accepted_per_position) == counters.accepted_tokens
    alone, _ = generate(
        target, kind.make(draft), prompts[:10:2], num_draft_tokens=kind.num_nodes, **fields
    )
    assert alone == expected[:5]


def test_a_wider_tree_accepts_more_than_a_chain_of_its_depth(target, draft, prompts):
    """Alternatives beside the likeliest tokens save rounds."""
    _, chain = generate(target, ChainDrafter(draft), prompts[:20], max_sequences=8)
    wide = TreeDrafter(draft, beam_width=4, depth=4)
    _, tree = generate(target, wide, prompts[:20], num_draft_tokens=16, max_sequences=8)
    assert tree.counters.acceptance_length > chain.counters.acceptance_length
