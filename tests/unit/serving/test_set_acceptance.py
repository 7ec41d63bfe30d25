"""Replayed drafts: the acceptance they state is the one the engine counts."""

import itertools

import pytest
import torch
from benchmarks.bus_bytes import count
from benchmarks.set_acceptance import (
    ReplayingDrafter,
    rates_for,
    replayed_tree,
    right_depth,
    tokens_per_round,
)
from toy_model import TableModel, random_table

from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest


def test_tokens_of_a_round_by_hand():
    """One token of the target, and each depth with the chance to get there."""
    assert tokens_per_round([]) == 1
    assert tokens_per_round([0.5, 0.5, 1.0]) == 1 + 0.5 + 0.25 + 0.25
    assert tokens_per_round([0.0, 1.0]) == 1


@pytest.mark.parametrize("tau", [1, 2, 3.5, 5, 8])
def test_rates_give_the_tokens_they_are_asked_for(tau):
    """To rounding, from none accepted to all."""
    assert tokens_per_round(rates_for(tau, 7)) == pytest.approx(tau)


def test_more_than_a_round_can_emit_is_refused():
    """Seven guesses and the target's own token are eight."""
    with pytest.raises(ValueError, match="7 deep emits 1 to 8 tokens, not 9"):
        rates_for(9, 7)


def test_depths_follow_the_rates():
    """Over evenly spread numbers the mean depth is the rates' own."""
    rates = [0.9, 0.5, 0.8]
    depths = [right_depth(rates, (i + 0.5) / 10_000) for i in range(10_000)]
    assert 1 + sum(depths) / len(depths) == pytest.approx(tokens_per_round(rates), abs=1e-3)


def test_a_tree_is_right_as_deep_as_asked_and_no_deeper():
    """Of 12 nodes, the first two of the path say what the text says; no other node does."""
    text = [5, 6, 7, 8]
    tree = replayed_tree(text, 2, depth=4, num_nodes=12, vocabulary_size=50)
    assert len(tree) == 12
    for path, depth in zip(tree.row_paths[1:], tree.depths, strict=True):
        is_right = list(path) == text[:depth]
        assert is_right == (path in ((5,), (5, 6)))


def test_the_engine_counts_what_was_set():
    """The text is the target's own, and a round emits the stated tokens to a tenth."""
    target = TableModel(random_table(40, seed=1))
    prompt = (1, 2)
    limits = EngineLimits(kv_bytes=5000, max_sequences=1, max_waiting=1)

    def run(drafter) -> tuple[tuple[int, ...], Engine]:
        engine = Engine(target, drafter, num_draft_tokens=9, limits=limits, eos_ids=frozenset())
        params = SamplingParams(temperature=0.0, max_tokens=400)
        engine.add(GenerationRequest("a", prompt, params, seed=0))
        text = itertools.chain.from_iterable(output.tokens for output in iter_steps(engine))
        return tuple(text), engine

    plain, _ = run(None)
    drafter = ReplayingDrafter(
        ChainDrafter(TableModel(random_table(40, seed=2))),
        {"a": prompt + plain},
        rates_for(3, 5),
        vocabulary_size=40,
        features=(8, torch.device("cpu")),
    )
    text, engine = run(drafter)
    assert text == plain
    assert engine.counters.acceptance_length == pytest.approx(3, abs=0.1)


def iter_steps(engine: Engine):
    while engine.has_work:
        yield from engine.step()


def test_only_copies_between_kinds_of_devices_count():
    """A copy to another kind of device counts its bytes, one that stays counts none."""
    rows = torch.zeros(10, 4)
    assert count(lambda: rows.to("meta")) == 160
    assert count(lambda: rows.to(torch.float64)) == 0
    assert count(lambda: torch.empty(10, 4, device="meta").copy_(rows)) == 160
    assert count(lambda: torch.as_tensor([1, 2]).to("meta", non_blocking=True)) == 16
