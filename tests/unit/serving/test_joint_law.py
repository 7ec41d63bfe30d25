"""The engine's output follows the target's distribution, as a joint law of several tokens."""

import itertools
from collections.abc import Callable

import pytest
import torch
from generation import outputs
from scipy.stats import chisquare
from toy_head import TableHead
from toy_model import TableModel, random_table
from toy_speculation import Toy, ToyGrammar

from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.grammar import Grammar
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_tree_drafter import HeadTreeDrafter
from serving.engine.model_drafter import ChainDrafter
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.sampling import SamplingParams, distribution
from serving.engine.sequence import GenerationRequest
from serving.engine.tree_drafter import TreeDrafter

VOCABULARY = 4
NUM_TOKENS = 3
NUM_SEEDS = 60
"""Texts that are compared one by one."""
START = 0
TARGET = random_table(VOCABULARY, seed=1)
DRAFTS = {
    "none": None,
    "perfect": TARGET,
    "random": random_table(VOCABULARY, seed=2),
    "opposite": -TARGET,
}


DRAFTERS_OF_EACH_KIND = {
    "chain": lambda draft: ChainDrafter(draft),
    "tree": lambda draft: TreeDrafter(draft, beam_width=2, depth=2),
    "n-gram": lambda _: NgramDrafter(),
    "head's chain": lambda draft: heads_chain(draft),
    "head's tree": lambda draft: HeadTreeDrafter(
        TableHead(draft.logits), most_rows=10_000, beam_width=2, depth=2
    ),
}
"""Every way of drafting."""


def heads_chain(draft: TableModel) -> HeadChainDrafter:
    return HeadChainDrafter(TableHead(draft.logits), most_rows=10_000)


def make_engine(
    draft: torch.Tensor | None,
    num_draft_tokens: int,
    make: Callable[[TableModel], Drafter] = ChainDrafter,
    *,
    kv_bytes: int = 1 << 20,
    eos_ids: frozenset[int] = frozenset(),
) -> Engine:
    return Engine(
        TableModel(TARGET),
        None if draft is None else make(TableModel(draft)),
        num_draft_tokens=num_draft_tokens,
        limits=EngineLimits(kv_bytes=kv_bytes, max_sequences=64, max_waiting=100_000),
        eos_ids=eos_ids,
    )


def sample(
    engine: Engine, params: SamplingParams, seeds: range, grammar: Grammar | None = None
) -> list[tuple[int, ...]]:
    texts: dict[str, tuple[int, ...]] = {}
    for seed in seeds:
        engine.add(GenerationRequest(str(seed), (START,), params, seed, grammar=grammar))
        texts[str(seed)] = ()
    for output in outputs(engine):
        texts[output.request_id] += output.tokens
    return [texts[str(seed)] for seed in seeds]


_plain: dict[tuple[str, str], list[tuple[int, ...]]] = {}


def plain_texts(
    key: tuple[str, str],
    params: SamplingParams,
    grammar: Grammar | None = None,
    eos_ids: frozenset[int] = frozenset(),
) -> list[tuple[int, ...]]:
    """Return the texts of plain decoding, made once for every drafter that is compared."""
    if key not in _plain:
        engine = make_engine(None, 1, eos_ids=eos_ids)
        _plain[key] = sample(engine, params, range(NUM_SEEDS), grammar)
    return _plain[key]


def exact_law(params: SamplingParams) -> dict[tuple[int, ...], float]:
    table = distribution(TARGET, params)
    law = {}
    for text in itertools.product(range(VOCABULARY), repeat=NUM_TOKENS):
        prob, last = 1.0, START
        for token in text:
            prob *= float(table[last, token])
            last = token
        law[text] = prob
    return law


def check_law(runs: list[tuple[int, ...]], law: dict[tuple[int, ...], float]) -> None:
    num_runs = len(runs)
    counts = dict.fromkeys(law, 0)
    for run in runs:
        counts[run] += 1
    # Pearson's test wants about five expected in each cell: rare texts join the rarest common one.
    common = sorted((text for text in law if law[text] * num_runs >= 5), key=law.__getitem__)
    observed = [counts[text] for text in common]
    expected = [law[text] * num_runs for text in common]
    observed[0] += num_runs - sum(observed)
    expected[0] += num_runs - sum(expected)
    assert chisquare(observed, expected).pvalue > 0.001


@pytest.mark.parametrize("num_runs", [800, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("draft", DRAFTS)
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.3},
        {"temperature": 1.7},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.2, "top_k": 2},
    ],
    ids=str,
)
def test_three_tokens_follow_the_targets_joint_law(draft, settings, num_runs):
    """Chi-square of seeded runs against the enumerated law of three tokens, p above 0.001."""
    params = SamplingParams(max_tokens=NUM_TOKENS, **settings)
    runs = sample(make_engine(DRAFTS[draft], num_draft_tokens=2), params, range(num_runs))
    check_law(runs, exact_law(params))


@pytest.mark.parametrize("draft", ["perfect", "random", "opposite"])
@pytest.mark.parametrize("num_draft_tokens", [1, 2, 5])
def test_greedy_output_does_not_depend_on_the_draft(draft, num_draft_tokens):
    """Any draft of any length leaves the greedy text as it is without one."""
    params = SamplingParams(max_tokens=17, temperature=0)
    plain = sample(make_engine(None, 1), params, range(3))
    assert sample(make_engine(DRAFTS[draft], num_draft_tokens), params, range(3)) == plain


def test_a_perfect_draft_is_always_accepted():
    """A draft equal to the target emits all its guesses and one more in each round."""
    engine = make_engine(TARGET, num_draft_tokens=3)
    sample(engine, SamplingParams(max_tokens=13, temperature=0.9), range(5))
    assert engine.counters.accepted_tokens == engine.counters.draft_tokens > 0


def test_a_seeded_request_repeats_whatever_runs_beside_it():
    """The same seed gives the same text alone and in a crowd."""
    params = SamplingParams(max_tokens=20, temperature=1.1)
    alone = sample(make_engine(DRAFTS["random"], 3), params, range(7, 8))
    crowd = sample(make_engine(DRAFTS["random"], 3), params, range(20))
    assert crowd[7] == alone[0]


PENALISED = {"temperature": 1.1, "repetition_penalty": 1.4, "frequency_penalty": 0.3}


@pytest.mark.parametrize("num_runs", [800, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("draft", "make"),
    [
        ("none", ChainDrafter),
        ("perfect", ChainDrafter),
        ("random", ChainDrafter),
        ("perfect", heads_chain),
        ("random", heads_chain),
    ],
)
def test_a_chain_of_penalised_logits_follows_the_joint_law(draft, make, num_runs):
    """Drafted and plain decoding follow one law with penalties, which both models' rows see."""
    params = SamplingParams(max_tokens=NUM_TOKENS, **PENALISED)
    law = Toy(TARGET, TARGET, params, prompt=(START,)).law(NUM_TOKENS)
    check_law(sample(make_engine(DRAFTS[draft], 2, make), params, range(num_runs)), law)


@pytest.mark.parametrize("num_runs", [800, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("draft", ["perfect", "random", "opposite"])
@pytest.mark.parametrize("settings", [{"temperature": 0.3}, {"top_p": 0.8}], ids=str)
def test_a_heads_chain_follows_the_joint_law(draft, settings, num_runs):
    """Three tokens guessed by a head and verified are as likely as the target has them."""
    params = SamplingParams(max_tokens=NUM_TOKENS, **settings)
    engine = make_engine(DRAFTS[draft], 2, heads_chain)
    check_law(sample(engine, params, range(num_runs)), exact_law(params))
    assert engine.counters.draft_tokens > 0


END = 3
AUTOMATON = [{0: 1, 1: 0, 2: 1}, {0: 2, 1: 0, END: 3}, {2: 3, 1: 1}, {END: 3}]
"""A grammar of texts that end by the end of text or because nothing else may follow."""
CONSTRAINED = [
    {"temperature": 1.3},
    {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 0.6, "logit_bias": {1: 0.5}},
    {"temperature": 1.0, "min_tokens": 3, "top_k": 2},
]


@pytest.mark.parametrize("num_runs", [800, pytest.param(10_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("settings", CONSTRAINED, ids=str)
@pytest.mark.parametrize("draft", ["none", "random"])
def test_constrained_texts_follow_the_joint_law(draft, settings, num_runs):
    """Drafted and plain decoding follow one law under a grammar, and end where it ends."""
    params = SamplingParams(max_tokens=NUM_TOKENS, **settings)
    toy = Toy(TARGET, TARGET, params, prompt=(START,), end_ids=(END,), automaton=AUTOMATON)
    law = toy.law(NUM_TOKENS)
    assert {len(text) for text in law} <= {2, 3}
    engine = make_engine(DRAFTS[draft], 3, eos_ids=frozenset({END}))
    check_law(sample(engine, params, range(num_runs), ToyGrammar(AUTOMATON, VOCABULARY)), law)


@pytest.mark.parametrize("settings", [*CONSTRAINED, {"temperature": 0}], ids=str)
@pytest.mark.parametrize("name", DRAFTERS_OF_EACH_KIND)
def test_drafts_leave_a_constrained_text_as_it_is_without_them(name, settings):
    """Greedy and sampled, any draft gives plain decoding's tokens under a grammar."""
    params = SamplingParams(max_tokens=9, **settings)
    grammar, ends = ToyGrammar(AUTOMATON, VOCABULARY), frozenset({END})
    plain = plain_texts(("grammar", str(settings)), params, grammar, ends)
    for draft in ("perfect", "random"):
        engine = make_engine(DRAFTS[draft], 3, DRAFTERS_OF_EACH_KIND[name], eos_ids=ends)
        assert sample(engine, params, range(NUM_SEEDS), grammar) == plain


@pytest.mark.parametrize("settings", [{"temperature": 1.0}, {"top_p": 0.8}, PENALISED], ids=str)
@pytest.mark.parametrize("name", DRAFTERS_OF_EACH_KIND)
def test_drafts_leave_a_seeded_text_as_it_is_without_them(name, settings):
    """Any draft gives the very tokens of plain decoding, and so their law."""
    params = SamplingParams(max_tokens=12, **settings)
    plain = plain_texts(("free", str(settings)), params)
    for draft in ("perfect", "random"):
        engine = make_engine(DRAFTS[draft], 3, DRAFTERS_OF_EACH_KIND[name])
        assert sample(engine, params, range(NUM_SEEDS)) == plain
        assert engine.counters.accepted_tokens > 0


@pytest.mark.parametrize("name", DRAFTERS_OF_EACH_KIND)
def test_a_seeded_text_repeats_where_drafts_are_cut(name):
    """Alone, in a crowd that takes the pages, and with fewer guesses, a seed gives one text."""
    params = SamplingParams(max_tokens=90, temperature=1.1)
    alone = sample(make_engine(None, 1), params, range(6))
    for num_draft_tokens in (1, 5):
        engine = make_engine(
            DRAFTS["random"], num_draft_tokens, DRAFTERS_OF_EACH_KIND[name], kv_bytes=64 * 5
        )
        assert sample(engine, params, range(6)) == alone
        assert engine.num_preemptions > 0


def test_positions_are_counted_by_depth():
    """Of a perfect tree each round accepts one path, counted once for each depth."""
    tree = TreeDrafter(TableModel(TARGET), beam_width=2, depth=3)
    engine = Engine(
        TableModel(TARGET),
        tree,
        num_draft_tokens=6,
        limits=EngineLimits(kv_bytes=1 << 20, max_sequences=1, max_waiting=1),
        eos_ids=frozenset(),
    )
    sample(engine, SamplingParams(max_tokens=13, temperature=0), range(1))
    # One token from the prompt's own step, then three rounds of four.
    assert engine.counters.accepted_per_position == [3, 3, 3]
    assert engine.counters.drafts == 3
    assert engine.counters.draft_tokens == 18


@pytest.mark.parametrize("settings", [{"temperature": 0}, PENALISED | {"top_k": 2}], ids=str)
@pytest.mark.parametrize("name", [None, *DRAFTERS_OF_EACH_KIND])
def test_logprobs_are_the_targets_own_whatever_was_drafted(name, settings):
    """Each token has the log-probabilities of its row before any processor, and the top ones."""
    params = SamplingParams(max_tokens=12, num_logprobs=2, **settings)
    draft = None if name is None else DRAFTS["random"]
    engine = make_engine(draft, 3, DRAFTERS_OF_EACH_KIND.get(name or "", ChainDrafter))
    for seed in range(5):
        engine.add(GenerationRequest(str(seed), (START,), params, seed))
    log_probs = TARGET.log_softmax(-1)
    last = dict.fromkeys(map(str, range(5)), START)
    for output in outputs(engine):
        assert len(output.logprobs) == len(output.tokens)
        for token, told in zip(output.tokens, output.logprobs, strict=True):
            row = log_probs[last[output.request_id]]
            values, ids = row.topk(2)
            assert told.logprob == row[token].item()
            assert told.rank == int((row > row[token]).sum()) + 1
            assert told.top == tuple(zip(ids.tolist(), values.tolist(), strict=True))
            last[output.request_id] = token
    assert draft is None or engine.counters.accepted_tokens > 0
