"""Drafting changes the speed, never the tokens; rolling back leaves no trace."""

import pytest
import torch
from generation import generate
from torch import nn
from transformers import AutoModelForCausalLM

from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.lean_llama import leanest
from serving.engine.model import FlatModel, TokenModel
from serving.engine.model_drafter import ChainDrafter
from serving.engine.rows import Rows

NEW_TOKENS = 32


def test_greedy_tokens_are_the_same_with_and_without_the_draft(target, draft, prompts):
    """Fifty prompts: one by one, drafted one by one, and drafted in batches of eight."""
    plain, _ = generate(target, None, prompts)
    drafted, engine = generate(target, ChainDrafter(draft), prompts)
    batched, _ = generate(target, ChainDrafter(draft), prompts, max_sequences=8)
    assert drafted == plain
    assert batched == plain
    assert engine.counters.accepted_tokens > 0


def test_greedy_tokens_are_transformers_own(target, tiny_family, prompts):
    """The engine without drafting gives what transformers' `generate` gives."""
    reference = AutoModelForCausalLM.from_pretrained(tiny_family / "target", dtype=torch.float32)
    plain, _ = generate(target, None, prompts[:5])
    for prompt, text in zip(prompts[:5], plain, strict=True):
        ids = torch.tensor([prompt])
        output = reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=None,
            pad_token_id=1,
        )
        assert tuple(output[0, len(prompt) :].tolist()) == text


def test_ragged_rows_equal_separate_forwards(target, prompts):
    """Prefill chunks and decode rows in one flat batch give transformers' logits to 1e-4."""
    pool = KVPool(6)
    caches = [SequenceCache(pool) for _ in range(3)]
    known = [prompts[0], prompts[11], prompts[22]]
    target.forward([Rows(known[0][:3], caches[0]), Rows(known[1][:1], caches[1])])
    caches[0].commit(3)
    caches[1].commit(1)
    flat = target.forward(
        [
            Rows(tokens[cache.length :], cache, len(tokens) - cache.length)
            for tokens, cache in zip(known, caches, strict=True)
        ]
    )
    separate = [
        target.forward([Rows(tokens, SequenceCache(KVPool.for_tokens(64)), len(tokens))])[start:]
        for tokens, start in zip(known, (3, 1, 0), strict=True)
    ]
    assert torch.allclose(flat, torch.cat(separate), atol=1e-4)


def test_the_cache_after_roll_back_equals_a_fresh_prefill(target, prompts):
    """Rejected rows leave keys and values as if they had never been, to 1e-5 relative."""
    tokens = prompts[3] + prompts[4]
    rolled, fresh = SequenceCache(KVPool.for_tokens(128)), SequenceCache(KVPool.for_tokens(128))
    target.forward([Rows(tokens[:5], rolled)])
    rolled.commit(5)
    for guess in (7, 8, 9):
        target.forward([Rows([*tokens[5:6], guess, guess, guess], rolled)])
        rolled.commit(4)
        rolled.roll_back(5)
    target.forward([Rows(tokens[5:], rolled)])
    rolled.commit(len(tokens) - 5)
    target.forward([Rows(tokens, fresh)])
    fresh.commit(len(tokens))
    for ours, theirs in zip(rolled.snapshot(), fresh.snapshot(), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


class PackedLinear(nn.Module):
    """A linear layer whose rows do not depend on each other's number, as measured for oneDNN."""

    def __init__(self, linear: nn.Linear) -> None:
        """Take the weights of `linear`."""
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)
        self._bias = linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the product, a lone row beside a copy of itself."""
        two = rows if rows.shape[-2] > 1 else rows.expand(*rows.shape[:-2], 2, -1)
        product = torch.ops.mkldnn._linear_pointwise(
            two.contiguous(), self._packed, self._bias, "none", [], ""
        )
        return product[..., : rows.shape[-2], :]


@pytest.fixture
def invariant_target(tiny_family, one_thread) -> FlatModel:
    """The shipped target with linear layers whose rows do not depend on their number."""
    target = FlatModel.load(str(tiny_family / "target"), device="cpu", dtype=torch.float32)
    for name, module in list(target.model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, child = name.rpartition(".")
            setattr(target.model.get_submodule(parent), child, PackedLinear(module))
    return target


@pytest.mark.parametrize("past", [5, 55, 62, 64, 100])
def test_the_cache_after_a_tree_equals_a_fresh_prefill_bit_for_bit(invariant_target, prompts, past):
    """Accepted rows of trees, moved behind the prefix, are what a prefill would have written."""
    target, pool = invariant_target, KVPool(12)
    tokens = [token for prompt in prompts[:20] for token in prompt][: past + 40]
    grown, fresh = SequenceCache(pool), SequenceCache(pool)
    target.forward([Rows(tokens[:past], grown)])
    grown.commit(past)
    while grown.length + 3 < len(tokens):
        first, second, third = tokens[grown.length : grown.length + 3]
        tree = [first, 7, second, 9, 9, third, 9]
        logits = target.forward([Rows(tree, grown, 7, parents=[-1, 0, 0, 1, 2, 2, 4])])
        grown.commit_path([0, 2, 5])
    final = tokens[: grown.length]
    fresh_logits = target.forward([Rows(final, fresh, 3)])
    fresh.commit(len(final))
    assert torch.equal(logits[[0, 2, 5]], fresh_logits)
    for ours, theirs in zip(grown.snapshot(), fresh.snapshot(), strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_draft_and_target_may_differ_in_dtype(target, tiny_family, prompts):
    """A bfloat16 draft beside a float32 target, as on two devices, changes no token."""
    coarse = FlatModel.load(str(tiny_family / "draft"), device="cpu", dtype=torch.bfloat16)
    plain, _ = generate(target, None, prompts[:6])
    drafted, _ = generate(target, ChainDrafter(coarse), prompts[:6], max_sequences=3)
    assert drafted == plain


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=str)
def cuda_draft(request, tiny_family) -> TokenModel:
    """The shipped draft on a CUDA device."""
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    folder = str(tiny_family / "draft")
    model = FlatModel.load(folder, device="cuda:0", dtype=request.param)
    assert model.device.type == "cuda"
    return leanest(model)


@pytest.mark.gpu
def test_draft_on_a_gpu_changes_no_token(target, cuda_draft, prompts):
    """The draft on CUDA and the target on the processor give the target's own tokens."""
    plain, _ = generate(target, None, prompts)
    drafted, engine = generate(target, ChainDrafter(cuda_draft), prompts, max_sequences=8)
    assert drafted == plain
    assert engine.counters.accepted_tokens > 0


@pytest.mark.gpu
def test_seeded_samples_with_a_draft_on_a_gpu_repeat(target, cuda_draft, prompts):
    """Sampled with the draft on CUDA, the same seeds give the same texts when run again."""
    first, engine = generate(target, ChainDrafter(cuda_draft), prompts[:10], temperature=0.8)
    again, _ = generate(target, ChainDrafter(cuda_draft), prompts[:10], temperature=0.8)
    assert again == first
    assert engine.counters.accepted_tokens > 0
