"""What rounds of drafting leave in a cache is what a prefill of the same tokens writes, bit for bit."""

import pytest
import torch
from lora_folders import make_adapter
from torch import Tensor

from serving.engine.adapters import Adapter
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel
from serving.engine.rows import Rows


@pytest.fixture(scope="module", params=["float32", "int8", "int4"])
def packed_target(request, tiny_family) -> FlatModel:
    """Return the shipped target with packed linears."""
    folder = str(tiny_family / "target")
    return FlatModel.load(folder, device="cpu", dtype=torch.float32, quantization=request.param)


@pytest.fixture(params=["base", "adapter"])
def adapter(request, packed_target, tiny_family, tmp_path) -> Adapter | None:
    """Return a LoRA of the target, or none."""
    if request.param == "base":
        return None
    return packed_target.read_adapter(make_adapter(tiny_family / "target", tmp_path / "lora"))


def tree_round(target: FlatModel, cache: SequenceCache, known: list[int], adapter) -> Tensor:
    """Verify a tree that holds what is known as one path, keep that path, return its logits."""
    first, second, third = known
    tree = [first, 7, second, 9, 9, third, 9]
    logits = target.forward([Rows(tree, cache, 7, adapter, parents=[-1, 0, 0, 1, 2, 2, 4])])
    cache.commit_path([0, 2, 5])
    return logits[[0, 2, 5]]


def chain_round(target: FlatModel, cache: SequenceCache, known: list[int], adapter) -> Tensor:
    """Verify a chain that goes wrong behind what is known, take it in whole, and roll it back."""
    logits = target.forward([Rows([*known, 7, 9], cache, 5, adapter)])
    cache.commit(5)
    cache.roll_back(cache.length - 2)
    return logits[:3]


@pytest.mark.parametrize("past", [5, 55, 62, 64, 100])
@pytest.mark.parametrize("play", [tree_round, chain_round])
def test_the_cache_after_rounds_equals_a_fresh_prefill(packed_target, adapter, prompts, play, past):
    """Keys, values and the last logits, for each packed type, with and without an adapter."""
    pool = KVPool(12)
    tokens = [token for prompt in prompts[:20] for token in prompt][: past + 30]
    grown, fresh = SequenceCache(pool), SequenceCache(pool)
    packed_target.forward([Rows(tokens[:past], grown, 1, adapter)])
    grown.commit(past)
    while grown.length + 3 <= len(tokens):
        known = tokens[grown.length : grown.length + 3]
        logits = play(packed_target, grown, known, adapter)
    fresh_logits = packed_target.forward([Rows(tokens, fresh, 3, adapter)])
    fresh.commit(len(tokens))
    assert torch.equal(logits, fresh_logits)
    assert grown.length == fresh.length
    for ours, theirs in zip(grown.snapshot(), fresh.snapshot(), strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_unpacked_weights_give_it_up_to_rounding(target, prompts):
    """Where a row's sums depend on its neighbours, what is left agrees to 1e-5 relative."""
    tokens = [token for prompt in prompts[:6] for token in prompt][:50]
    grown, fresh = SequenceCache(KVPool(2)), SequenceCache(KVPool(2))
    target.forward([Rows(tokens[:20], grown)])
    grown.commit(20)
    for start in range(20, 50, 3):
        play = chain_round if start % 2 else tree_round
        play(target, grown, tokens[start : start + 3], None)
    target.forward([Rows(tokens, fresh)])
    fresh.commit(50)
    for ours, theirs in zip(grown.snapshot(), fresh.snapshot(), strict=True):
        assert torch.allclose(torch.stack(ours), torch.stack(theirs), rtol=1e-5, atol=1e-5)
