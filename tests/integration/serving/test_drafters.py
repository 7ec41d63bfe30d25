"""Every drafter leaves the target's own text, greedy or seeded, alone and in a crowd."""

import functools
from collections.abc import Callable

import pytest

from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model import FlatModel, TokenModel
from serving.engine.model_drafter import ChainDrafter
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.tree_drafter import TreeDrafter

DRAFTERS: dict[str, tuple[Callable[[TokenModel], Drafter], int]] = {
    "chain": (ChainDrafter, 4),
    "n-gram": (lambda _: NgramDrafter(), 6),
    "tree 1x3": (lambda draft: TreeDrafter(draft, beam_width=1, depth=3), 3),
    "tree 2x6": (lambda draft: TreeDrafter(draft, beam_width=2, depth=4), 6),
    "tree 4x16": (lambda draft: TreeDrafter(draft, beam_width=4, depth=6), 16),
    "tree 8x40": (lambda draft: TreeDrafter(draft, beam_width=8, depth=3), 40),
}
"""How each is made, and its nodes."""

SETTINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1},
}


def generate(
    target: FlatModel,
    drafter: Drafter | None,
    prompts: list[list[int]],
    settings: dict,
    *,
    num_draft_tokens: int = 1,
    max_sequences: int = 8,
) -> tuple[list[tuple[int, ...]], Engine]:
    engine = Engine(
        target,
        drafter,
        num_draft_tokens=num_draft_tokens,
        limits=EngineLimits(kv_bytes=1 << 28, max_sequences=max_sequences, max_waiting=1000),
        eos_ids=frozenset(),
    )
    params = SamplingParams(max_tokens=32, **settings)
    texts: dict[str, tuple[int, ...]] = {}
    for index, prompt in enumerate(prompts):
        engine.add(GenerationRequest(str(index), tuple(prompt), params, seed=index))
        texts[str(index)] = ()
    while engine.has_work:
        for output in engine.step():
            texts[output.request_id] += output.tokens
    engine.check_idle()
    return list(texts.values()), engine


@pytest.fixture(scope="session")
def plain(target, prompts) -> Callable[[str], list[tuple[int, ...]]]:
    """Return the texts without drafting, one request at a time, by the settings' name."""
    return functools.cache(
        lambda name: generate(target, None, prompts[::2], SETTINGS[name], max_sequences=1)[0]
    )


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", DRAFTERS)
def test_the_text_does_not_depend_on_the_drafter(target, draft, prompts, plain, name, settings):
    """Batches of eight, and some prompts alone, give what the target gives undrafted."""
    expected = plain(settings)
    make, num_nodes = DRAFTERS[name]
    crowd, engine = generate(
        target, make(draft), prompts[::2], SETTINGS[settings], num_draft_tokens=num_nodes
    )
    assert crowd == expected
    counters = engine.counters
    assert counters.accepted_tokens > 0
    assert sum(counters.accepted_per_position) == counters.accepted_tokens
    alone, _ = generate(
        target,
        make(draft),
        prompts[:10:2],
        SETTINGS[settings],
        num_draft_tokens=num_nodes,
        max_sequences=1,
    )
    assert alone == expected[:5]


def test_a_wider_tree_accepts_more_than_a_chain_of_its_depth(target, draft, prompts):
    """Alternatives beside the likeliest tokens save rounds."""
    _, chain = generate(
        target, ChainDrafter(draft), prompts[:20], SETTINGS["greedy"], num_draft_tokens=4
    )
    wide = TreeDrafter(draft, beam_width=4, depth=4)
    _, tree = generate(target, wide, prompts[:20], SETTINGS["greedy"], num_draft_tokens=16)
    assert tree.counters.acceptance_length > chain.counters.acceptance_length
