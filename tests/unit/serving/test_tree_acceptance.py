"""Tree acceptance: node by node exact, greedy, and the known mistakes of other implementations."""

import math

import numpy as np
import pytest
import torch
from toy_model import TableModel, random_table
from toy_speculation import TREE_MAKERS, Toy, chosen_chain, chosen_tree

from serving.engine.acceptance import (
    acceptance_probability,
    draw_children,
    residual,
    verify_greedy,
    verify_sampled,
)
from serving.engine.draft_tree import ROOT, DraftTree
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.engine.processors import RowHistories, TokenHistory
from serving.engine.sampling import Purpose, SamplingParams, distribution, greedy_ids
from serving.engine.sequence import GenerationRequest

FORKED = DraftTree((4, 5, 6, 7, 8), (ROOT, ROOT, 1, 1, 3), (None,) * 5)


@pytest.mark.parametrize(
    ("target_ids", "expected"),
    [
        ([9, 0, 0, 0, 0, 0], ((), 9)),
        ([4, 9, 0, 0, 0, 0], ((0,), 9)),
        ([5, 0, 9, 0, 0, 0], ((1,), 9)),
        ([5, 0, 7, 0, 9, 0], ((1, 3), 9)),
        ([5, 0, 7, 0, 8, 9], ((1, 3, 4), 9)),
        ([5, 0, 6, 9, 8, 0], ((1, 2), 9)),
    ],
)
def test_greedy_follows_the_children_that_equal_the_targets_choice(target_ids, expected):
    """Row 0 stands behind the known tokens, row i + 1 behind node i."""
    assert verify_greedy(FORKED, target_ids) == expected


def fixed(emit: float, accept: float = 0.5):
    return lambda offset, purpose, index=0: accept if purpose is Purpose.ACCEPT else emit


def test_an_empty_draft_emits_the_targets_token():
    """Greedy and sampled rounds without nodes are plain decoding."""
    assert verify_greedy(DraftTree(), [3]) == ((), 3)
    assert verify_sampled(DraftTree(), torch.tensor([[0.25, 0.75]]), fixed(0.3)) == ((), 1)


def test_chosen_children_use_one_draw_a_token_and_none_to_accept():
    """What is emitted is the inversion of that draw, whether or not it was guessed."""
    asked = []

    def noise(offset: int, purpose: Purpose, index: int = 0) -> float:
        asked.append((offset, purpose, index))
        return 0.6

    probs = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.2, 0.3], [0.7, 0.2, 0.1]])
    tree = DraftTree((0, 1), (ROOT, ROOT), (None, None))
    assert verify_sampled(tree, probs, noise) == ((1,), 0)
    assert asked == [(0, Purpose.EMIT, 0), (1, Purpose.EMIT, 0)]


def next_token_law(p: torch.Tensor, q: torch.Tensor, num_children: int) -> torch.Tensor:
    """Return the exact law of the token behind a node, over all draws of its children.

    Every ordered set of distinct children is enumerated with its probability; the rule's own odds
    and residuals, not draws, say what comes of it.
    """
    law = torch.zeros_like(p)

    def go_on(weights, mass, left, prob, num_left):
        if num_left == 0 or float(left.sum()) < 1e-9:
            law.add_(prob * weights / weights.sum())
            return
        left = left / left.sum()
        rest = residual(weights, mass, left)
        for token in range(len(p)):
            drawn = prob * float(left[token])
            if drawn == 0:
                continue
            odds = acceptance_probability(weights, mass, token, left)
            law[token] += drawn * odds
            remaining = drawn * (1 - odds)
            if remaining > 1e-15:
                without = left.clone()
                without[token] = 0
                go_on(rest, float(rest.sum()), without, remaining, num_left - 1)

    go_on(p, 1.0, q.clone(), 1.0, num_children)
    return law


SHAPES = {
    "flat": [0.2] * 5,
    "steep": [0.9, 0.06, 0.03, 0.008, 0.002],
    "reversed": [0.002, 0.008, 0.03, 0.06, 0.9],
    "holes": [0.0, 0.5, 0.0, 0.3, 0.2],
    "other holes": [0.6, 0.0, 0.1, 0.0, 0.3],
    "point": [0.0, 0.0, 1.0, 0.0, 0.0],
}


@pytest.mark.parametrize("num_children", [1, 2, 3, 5])
@pytest.mark.parametrize("draft", SHAPES)
@pytest.mark.parametrize("target", SHAPES)
def test_the_token_behind_a_node_follows_the_target_exactly(target, draft, num_children):
    """Summed over every draw of children without replacement, its law is p to rounding."""
    p = torch.tensor(SHAPES[target], dtype=torch.float64)
    q = torch.tensor(SHAPES[draft], dtype=torch.float64)
    assert torch.allclose(next_token_law(p, q, num_children), p, atol=1e-9)


def test_children_are_drawn_without_replacement():
    """Tokens are distinct, each carries what it was drawn from, and they end with the support."""
    probs = torch.tensor([0.5, 0.0, 0.3, 0.2])
    children = draw_children(probs, 4, [0.6, 0.99, 0.5, 0.5].__getitem__)
    assert [token for token, _ in children] == [2, 3, 0]
    assert children[0][1].tolist() == probs.tolist()
    assert children[1][1].tolist() == pytest.approx([0.5 / 0.7, 0, 0, 0.2 / 0.7])
    assert children[2][1].tolist() == [1, 0, 0, 0]


def test_drawn_and_chosen_children_mix():
    """A drawn child is tried first; what it leaves may still be a chosen one."""
    p, q = torch.tensor([0.1, 0.9]), torch.tensor([1.0, 0.0])
    tree = DraftTree((0, 1), (ROOT, ROOT), (q, None))
    probs = torch.stack([p, p, torch.tensor([1.0, 0.0])])
    assert verify_sampled(tree, probs, fixed(0.5, accept=0.05)).nodes[0] == 0
    assert verify_sampled(tree, probs, fixed(0.5, accept=0.2)) == ((1,), 0)


def test_a_residual_of_no_mass_accepts():
    """Where rounding alone rejects, the token stays; one the target cannot emit never does."""
    p = torch.tensor([1.0 - 2**-24, 0.0])
    q = torch.tensor([1.0, 0.0])
    rows = torch.stack([p, torch.tensor([0.0, 1.0])])
    assert verify_sampled(DraftTree.chain([0], [q]), rows, fixed(0.5, accept=1 - 2**-53)) == (
        (0,),
        1,
    )
    tiny = torch.tensor([1.0, 1e-12])
    assert verify_sampled(DraftTree.chain([1], [tiny]), torch.stack([q, q]), fixed(0.5)) == ((), 0)


def test_the_bonus_token_obeys_the_sampling_parameters():
    """Behind an accepted leaf, logits (2, 1, 0) at T = 0.3 give (.964, .034, .001), not softmax."""
    logits = torch.tensor([[0.0, 0.0, 9.0], [2.0, 1.0, 0.0]])
    probs = distribution(logits, SamplingParams(max_tokens=1, temperature=0.3))
    tree = DraftTree.chain([2])
    grid = [(i + 0.5) / 2000 for i in range(2000)]
    tokens = [verify_sampled(tree, probs, lambda o, *_, u=u: u if o else 0.5).token for u in grid]
    shares = [tokens.count(token) / len(grid) for token in range(3)]
    assert shares == pytest.approx([0.964, 0.034, 0.001], abs=2e-3)


def test_greedy_does_not_compare_soft_probabilities():
    """Draft argmax 0 with q = .34 against target (.40, .60): token 0 is refused at T = 0."""
    params = SamplingParams(max_tokens=1, temperature=0)
    logits = torch.tensor([[0.40, 0.60], [0.5, 0.5]]).log()
    tree = DraftTree.chain([0])
    assert verify_greedy(tree, greedy_ids(logits, params)) == ((), 1)
    # Greedy probabilities are all or nothing, so that the sampled walk agrees.
    assert verify_sampled(tree, distribution(logits, params), fixed(0.1)) == ((), 1)


@pytest.mark.parametrize("rule", TREE_MAKERS)
@pytest.mark.parametrize("draft_seed", [1, 2])
def test_greedy_text_with_penalties_does_not_depend_on_the_draft(rule, draft_seed):
    """Every kind of tree leaves the penalised greedy text as plain decoding gives it."""
    params = SamplingParams(
        max_tokens=12, temperature=0, repetition_penalty=1.4, frequency_penalty=0.8
    )
    target = random_table(6, seed=1)
    draws = np.random.default_rng(0).random((16, 3, 3))
    experiment = Toy(target, random_table(6, draft_seed), params)
    history = TokenHistory(experiment.prompt)
    plain = [*experiment.prompt]
    for _ in range(12):
        rows = RowHistories(history, [()])
        plain += greedy_ids(target[plain[-1:]], params, rows)
        history.extend(plain[-1:])
    assert experiment.run(TREE_MAKERS[rule], 12, draws) == tuple(plain[1:])


@pytest.mark.parametrize("make_tree", [chosen_chain, chosen_tree])
def test_chosen_drafts_leave_a_seeded_text_as_it_is_without_them(make_tree):
    """The same draws give the same sampled text with any chosen draft and with none."""
    params = SamplingParams(max_tokens=40, temperature=1.3, presence_penalty=0.5)
    target = random_table(6, seed=1)
    for seed in range(20):
        draws = np.random.default_rng(seed).random((44, 3, 1))
        texts = {
            Toy(target, random_table(6, draft_seed), params).run(maker, 40, draws)
            for draft_seed, maker in [(1, make_tree), (2, make_tree), (1, lambda *_: DraftTree())]
        }
        assert len(texts) == 1


def test_acceptance_length_is_per_real_round():
    """A perfect chain of three emits four tokens in each of the rounds that took place."""
    table = random_table(5, seed=3)
    engine = Engine(
        TableModel(table),
        ChainDrafter(TableModel(table)),
        num_draft_tokens=3,
        limits=EngineLimits(kv_bytes=1000, max_sequences=1, max_waiting=1),
        eos_ids=frozenset(),
    )
    engine.add(GenerationRequest("a", (1,), SamplingParams(max_tokens=13, temperature=0), 0))
    num_rounds = 0
    while engine.has_work:
        num_rounds += any(len(output.tokens) > 1 for output in engine.step())
    # The prompt's own step emits one token and drafts nothing.
    assert engine.counters.drafts == num_rounds == 3
    assert math.isclose(engine.counters.acceptance_length, 12 / 3)


def test_a_drawn_token_stays_as_often_as_the_laws_overlap():
    """Over many draws the share that stays is the sum of min(p, q)."""
    p, q = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.3, 0.5])
    rows = torch.stack([p, p])
    stayed = 0
    for draws in np.random.default_rng(1).random((4000, len(Purpose))):
        ((token, drawn_from),) = draw_children(q, 1, lambda _, d=draws: d[Purpose.DRAFT])
        tree = DraftTree.chain([token], [drawn_from])
        stayed += len(verify_sampled(tree, rows, lambda _, why, index=0, d=draws: d[why]).nodes)
    assert stayed / 4000 == pytest.approx(0.2 + 0.3 + 0.1, abs=0.03)
