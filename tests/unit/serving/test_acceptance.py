"""Acceptance: the path that the target chooses, and the known mistakes of other implementations."""

import math

import pytest
import torch
from toy_model import TableModel, random_table
from toy_speculation import TREE_MAKERS, Toy

from serving.engine.acceptance import verify
from serving.engine.draft_tree import ROOT, DraftTree
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.engine.processors import RowHistories, TokenHistory
from serving.engine.sampling import SamplingParams, choices, greedy_ids, race_times
from serving.engine.sequence import GenerationRequest

FORKED = DraftTree((4, 5, 6, 7, 8), (ROOT, ROOT, 1, 1, 3), (0, 1, 0, 1, 0))


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([9, 0, 0, 0, 0, 0], ((), 9)),
        ([4, 9, 0, 0, 0, 0], ((0,), 9)),
        ([5, 0, 9, 0, 0, 0], ((1,), 9)),
        ([5, 0, 7, 0, 9, 0], ((1, 3), 9)),
        ([5, 0, 7, 0, 8, 9], ((1, 3, 4), 9)),
        ([5, 0, 6, 9, 8, 0], ((1, 2), 9)),
    ],
)
def test_a_tree_keeps_the_path_of_the_targets_choices(choices, expected):
    """Row 0 stands behind the known tokens, row i + 1 behind node i."""
    assert verify(FORKED, choices) == expected


@pytest.mark.parametrize(
    ("choices", "drafted", "expected"),
    [
        ([7], [], ((), 7)),
        ([1, 2, 3], [1, 2], ((0, 1), 3)),
        ([1, 9, 3], [1, 2], ((0,), 9)),
        ([9, 2, 3], [1, 2], ((), 9)),
    ],
)
def test_a_chain_keeps_the_common_prefix_and_the_targets_own_token(choices, drafted, expected):
    """What is emitted is what plain decoding would emit, whatever was drafted."""
    assert verify(DraftTree.chain(drafted), choices) == expected


def test_greedy_does_not_compare_soft_probabilities():
    """Draft argmax 0 with q = .34 against target (.40, .60): token 0 is refused at T = 0."""
    params = SamplingParams(max_tokens=1, temperature=0)
    logits = torch.tensor([[0.40, 0.60], [0.5, 0.5]]).log()
    assert verify(DraftTree.chain([0]), choices(logits, params, [])) == ((), 1)


def test_the_bonus_token_obeys_the_sampling_parameters():
    """Behind an accepted leaf, logits (2, 1, 0) at T = 0.3 give (.964, .034, .001), not softmax."""
    params = SamplingParams(max_tokens=1, temperature=0.3)
    logits = torch.tensor([[0.0, 0.0, 90.0], [2.0, 1.0, 0.0]])
    tree = DraftTree.chain([2])
    tokens = []
    for seed in range(4000):
        races = [race_times(seed, position, 3) for position in (0, 1)]
        tokens.append(verify(tree, choices(logits, params, races)).token)
    shares = [tokens.count(token) / len(tokens) for token in range(3)]
    assert shares == pytest.approx([0.964, 0.034, 0.001], abs=0.01)


@pytest.mark.parametrize("kind", TREE_MAKERS)
@pytest.mark.parametrize("draft_seed", [1, 2])
def test_greedy_text_with_penalties_does_not_depend_on_the_draft(kind, draft_seed):
    """Every kind of tree leaves the penalised greedy text as plain decoding gives it."""
    params = SamplingParams(
        max_tokens=12, temperature=0, repetition_penalty=1.4, frequency_penalty=0.8
    )
    target = random_table(6, seed=1)
    experiment = Toy(target, random_table(6, draft_seed), params)
    history = TokenHistory(experiment.prompt)
    plain = [*experiment.prompt]
    for _ in range(12):
        rows = RowHistories(history, [()])
        plain += greedy_ids(target[plain[-1:]], params, rows)
        history.extend(plain[-1:])
    assert experiment.run(TREE_MAKERS[kind], 12, torch.ones(16, 6)) == tuple(plain[1:])


@pytest.mark.parametrize("kind", TREE_MAKERS)
def test_drafts_leave_a_seeded_text_as_it_is_without_them(kind):
    """The same races give the same sampled text with any draft and with none."""
    params = SamplingParams(max_tokens=40, temperature=1.3, presence_penalty=0.5)
    target = random_table(6, seed=1)
    for seed in range(20):
        times = torch.stack([race_times(seed, position, 6) for position in range(44)])
        texts = {
            Toy(target, random_table(6, draft_seed), params).run(maker, 40, times)
            for draft_seed, maker in [
                (1, TREE_MAKERS[kind]),
                (2, TREE_MAKERS[kind]),
                (1, lambda *_: DraftTree()),
            ]
        }
        assert len(texts) == 1


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_a_raced_token_stays_nearly_as_often_as_the_laws_overlap(temperature):
    """Between (1 - d) / (1 + d) and 1 - d for the distance d of the two laws, and above chance."""
    params = SamplingParams(max_tokens=1, temperature=temperature)
    target, draft = (random_table(50, seed)[:1] for seed in (1, 2))
    draft = 0.7 * target + 0.3 * draft
    laws = [(table / temperature).softmax(-1) for table in (target, draft)]
    overlap = float(torch.minimum(*laws).sum())
    stayed = 0
    for seed in range(3000):
        races = [race_times(seed, 0, 50)]
        stayed += choices(target, params, races) == choices(draft, params, races)
    assert overlap / (2 - overlap) - 0.03 < stayed / 3000 < overlap + 0.03
    assert stayed / 3000 > float(laws[0][0, draft.argmax()])


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
