"""Drafting changes the speed, never the tokens; rolling back leaves no trace."""

import pytest
import torch
from generation import generate
from transformers import AutoModelForCausalLM

from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel, TokenModel
from serving.engine.model_drafter import ChainDrafter, leanest
from serving.engine.rows import Rows

NEW_TOKENS = 32


@pytest.mark.parametrize("num_prompts", [16, pytest.param(50, marks=pytest.mark.slow)])
def test_greedy_tokens_are_the_same_with_and_without_the_draft(target, draft, prompts, num_prompts):
    """Different prompts: one by one, drafted one by one, and drafted in batches of eight."""
    prompts = prompts[:: len(prompts) // num_prompts]
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
