"""Every drafter leaves the target's own text, greedy or seeded, alone and in a crowd."""

import functools
from collections.abc import Callable

import pytest
import torch
from generation import DrafterKind, Drafts, generate
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from serving.engine.engine import Engine, EngineLimits
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_folder import load_head
from serving.engine.head_tree_drafter import HeadTreeDrafter
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.lean_head import LeanHead
from serving.engine.model import FlatModel
from serving.engine.model_drafter import ChainDrafter
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.pre_drafting import PreDrafter
from serving.engine.rows import Rows
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.tree_drafter import TreeDrafter

ROWS = 8 * 1024
DRAFTERS: dict[str, DrafterKind] = {
    "chain": DrafterKind(lambda d: ChainDrafter(d.model), 4),
    "n-gram": DrafterKind(lambda _: NgramDrafter(), 6),
    "tree 1x3": DrafterKind(lambda d: TreeDrafter(d.model, beam_width=1, depth=3), 3),
    "tree 2x6": DrafterKind(lambda d: TreeDrafter(d.model, beam_width=2, depth=4), 6),
    "tree 4x16": DrafterKind(lambda d: TreeDrafter(d.model, beam_width=4, depth=6), 16),
    "tree 8x40": DrafterKind(lambda d: TreeDrafter(d.model, beam_width=8, depth=3), 40),
    "head's chain": DrafterKind(lambda d: HeadChainDrafter(d.head, most_rows=ROWS), 4),
    "head's tree 2x6": DrafterKind(
        lambda d: HeadTreeDrafter(d.head, most_rows=ROWS, beam_width=2, depth=4), 6
    ),
    "head's tree 4x16": DrafterKind(
        lambda d: HeadTreeDrafter(d.head, most_rows=ROWS, beam_width=4, depth=6), 16
    ),
}
"""Whose tokens are chosen, in several shapes."""

SETTINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.8, "top_p": 0.95, "repetition_penalty": 1.1},
}


@pytest.fixture(scope="session")
def plain(target, prompts) -> Callable[[str], list[tuple[int, ...]]]:
    """Return the texts without drafting, one request at a time, by the settings' name."""
    return functools.cache(lambda name: generate(target, None, prompts[::6], **SETTINGS[name])[0])


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", DRAFTERS)
def test_the_text_does_not_depend_on_the_drafter(target, drafts, prompts, plain, name, settings):
    """Batches of eight, and some prompts alone, give what the target gives undrafted."""
    expected = plain(settings)
    kind, fields = DRAFTERS[name], SETTINGS[settings]
    drafter = kind.make(drafts)
    crowd, engine = generate(
        target,
        drafter,
        prompts[::6],
        num_draft_tokens=kind.num_nodes,
        max_sequences=8,
        **fields,
    )
    assert crowd == expected
    counters = engine.counters
    assert counters.accepted_tokens > 0
    assert sum(counters.accepted_per_position) == counters.accepted_tokens
    alone, _ = generate(target, drafter, prompts[:12:6], num_draft_tokens=kind.num_nodes, **fields)
    assert alone == expected[:2]
    assert drafter.num_without_room == 0
    if name.startswith("head"):
        assert drafter.memory.num_taken == 0


@pytest.mark.parametrize("name", [name for name in DRAFTERS if name.startswith("head")])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_a_head_in_another_type_and_place_changes_no_token(
    target, draft, tiny_family, prompts, plain, device, name
):
    """A bfloat16 head, also on CUDA, beside a float32 target: features cross over, ids come back."""
    if device != "cpu" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    coarse = load_head(
        tiny_family / "head", target_sha256=None, device=device, dtype=torch.bfloat16
    )
    head = LeanHead(
        coarse,
        embedding=target.model.get_input_embeddings().weight,
        output_head=target.model.get_output_embeddings().weight,
    )
    kind = DRAFTERS[name]
    drafter = kind.make(Drafts(draft, head))
    texts, engine = generate(
        target, drafter, prompts[:24:6], num_draft_tokens=kind.num_nodes, **SETTINGS["greedy"]
    )
    assert texts == plain("greedy")[:4]
    assert engine.counters.accepted_tokens > 0


def test_a_wider_tree_accepts_more_than_a_chain_of_its_depth(target, draft, prompts):
    """Alternatives beside the likeliest tokens save rounds."""
    _, chain = generate(target, ChainDrafter(draft), prompts[:20], max_sequences=8)
    wide = TreeDrafter(draft, beam_width=4, depth=4)
    _, tree = generate(target, wide, prompts[:20], num_draft_tokens=16, max_sequences=8)
    assert tree.counters.acceptance_length > chain.counters.acceptance_length


def test_features_are_the_models_last_hidden_states(target, tiny_family, prompts):
    """Every row of a ragged batch has the feature that transformers computes, logits as they were."""
    model = AutoModelForCausalLM.from_pretrained(tiny_family / "target", dtype=torch.float32)
    pool = KVPool(8)
    first, second = prompts[0], prompts[1]
    cache = SequenceCache(pool)
    assert cache.reserve(64)
    target.forward([Rows(first[:4], cache)])
    cache.commit(4)
    other = SequenceCache(pool)
    assert other.reserve(64)
    batch = [Rows(first[4:], cache), Rows(second, other, num_logits=2)]
    logits_NV, features_TE = target.forward_with_features(batch)
    with torch.inference_mode():
        own = [model.model(torch.tensor([ids])).last_hidden_state[0] for ids in (first, second)]
    torch.testing.assert_close(features_TE, torch.cat((own[0][4:], own[1])), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits_NV, target.forward(batch))


def test_a_head_drafts_for_adapted_and_plain_requests_side_by_side(
    tiny_family, head, prompts, tmp_path
):
    """With a LoRA on the target the head's guesses are worse and the text is the adapter's."""
    target = FlatModel.load(str(tiny_family / "target"), device="cpu", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(tiny_family / "target", dtype=torch.float32)
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    adapted.save_pretrained(tmp_path)
    texts = []
    for drafter in (None, HeadTreeDrafter(head, most_rows=ROWS, beam_width=3, depth=4)):
        engine = Engine(
            target,
            drafter,
            num_draft_tokens=8,
            limits=EngineLimits(kv_bytes=1 << 26, max_sequences=8, max_waiting=8),
            eos_ids=frozenset(),
        )
        engine.load_adapter("lora", tmp_path)
        params = SamplingParams(max_tokens=24, temperature=0)
        found: dict[str, tuple[int, ...]] = {}
        for index, prompt in enumerate(prompts[:6]):
            name = "lora" if index % 2 else None
            engine.add(GenerationRequest(str(index), tuple(prompt), params, 0, name))
        while engine.has_work:
            for output in engine.step():
                found[output.request_id] = found.get(output.request_id, ()) + output.tokens
        texts.append(found)
    assert texts[0] == texts[1]
    assert engine.counters.accepted_tokens > 0


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": 0.8, "top_p": 0.95}])
@pytest.mark.parametrize("name", ["chain", "head's chain"])
def test_drafting_ahead_changes_no_token(target, drafts, prompts, name, settings):
    """Eight requests at once, then one alone, with whatever the thread had ready in time."""
    kind = DRAFTERS[name]
    expected, _ = generate(target, None, prompts[:40:5], **settings)
    for count in (8, 1):
        ahead = PreDrafter(kind.make(drafts), least_chance=0.0)
        texts, engine = generate(
            target,
            ahead,
            prompts[: 5 * count : 5],
            num_draft_tokens=kind.num_nodes,
            max_sequences=8,
            **settings,
        )
        engine.close()
        assert texts == expected[:count]
        assert ahead.counts.failures == 0
        assert ahead.counts.used > 0
