"""Every family: one ragged batch equals transformers' and PEFT's separate forwards to 1e-4."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from toy_sizes import SIZES as TOY_SIZES
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel
from serving.engine.rows import Rows

SIZES = TOY_SIZES | {
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXED = ["sliding_attention", "full_attention"]

FAMILIES = {
    "llama": LlamaConfig(**SIZES, num_hidden_layers=2),
    "qwen2": Qwen2Config(**SIZES, num_hidden_layers=3),
    "qwen3": Qwen3Config(**SIZES, num_hidden_layers=2),
    "mistral": MistralConfig(**SIZES, num_hidden_layers=3, sliding_window=37),
    "smollm": LlamaConfig(
        **SIZES | {"num_key_value_heads": 1}, num_hidden_layers=2, tie_word_embeddings=True
    ),
    "smollm3": SmolLM3Config(**SIZES, num_hidden_layers=5),
    "gemma2": Gemma2Config(
        **SIZES,
        num_hidden_layers=4,
        sliding_window=37,
        layer_types=MIXED * 2,
        attn_logit_softcapping=3.0,
        query_pre_attn_scalar=32,
    ),
    "gemma3": Gemma3TextConfig(
        **SIZES,
        num_hidden_layers=6,
        sliding_window=37,
        layer_types=MIXED[:1] * 5 + MIXED[1:],
        query_pre_attn_scalar=32,
    ),
}

TREE = (-1, 0, 0, 1, 1, 2, 3, 5, 6, 6)


@dataclass(frozen=True, slots=True)
class Family:
    """A random model of one family with two adapters, as the engine and as others run it."""

    model: FlatModel
    folders: list[Path | None]
    base: Path

    def others_logits(self, adapter: int, tokens: list[int]) -> Tensor:
        """Return transformers' own logits, through PEFT where there is an adapter."""
        model = AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32)
        folder = self.folders[adapter]
        runner = model if folder is None else PeftModel.from_pretrained(model, folder)
        runner.train(False)
        with torch.inference_mode():
            logits: Tensor = runner(torch.tensor([tokens]), use_cache=False).logits[0]
        return logits


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path) -> Family:
    base = save(FAMILIES[request.param], tmp_path / "base")
    folders: list[Path | None] = [None]
    for seed in (1, 2):
        torch.manual_seed(seed)
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
        adapted = get_peft_model(plain, config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        adapted.save_pretrained(tmp_path / f"adapter-{seed}")
        folders.append(tmp_path / f"adapter-{seed}")
    model = FlatModel.load(str(base), device="cpu", dtype=torch.float32)
    return Family(model, folders, base)


def save(config: PretrainedConfig, folder: Path) -> Path:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def random_tokens(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 96, (count,), generator=generator).tolist()


def begun(family: Family, pool: KVPool, tokens: list[int], adapter, salt: int) -> SequenceCache:
    """Return a cache that holds and publishes `tokens`, computed in chunks unless shared."""
    cache = SequenceCache(pool, salt)
    cache.share_prefix([*tokens, 0])
    while cache.length < len(tokens):
        chunk = tokens[cache.length : cache.length + 50]
        family.model.forward([Rows(chunk, cache, 1, adapter)])
        cache.commit(len(chunk))
    cache.publish(tokens)
    return cache


def path_to(node: int) -> list[int]:
    path: list[int] = []
    while node >= 0:
        path.insert(0, node)
        node = TREE[node]
    return path


def test_a_ragged_batch_equals_separate_forwards(family):
    """Trees, prefill chunks, prefix hits and two adapters side by side, each as if it were alone."""
    adapters = [None] + [family.model.read_adapter(folder) for folder in family.folders[1:]]
    pool = KVPool(40)
    jobs = []  # tokens cached, new tokens, adapter, is a tree
    for index, (past, count) in enumerate(
        [(150, 10), (124, 10), (0, 90), (70, 33), (150, 1), (61, 10)]
    ):
        prompt = random_tokens(past, seed=index % 4)  # the fifth shares the first one's pages
        jobs.append((prompt, random_tokens(count, 10 + index), index % 4 % 3, count == 10))
    caches = [begun(family, pool, past, adapters[a], a) for past, _, a, _ in jobs]
    assert pool.pages.hit_tokens == 128
    batch = [
        Rows(new, cache, len(new), adapters[a], TREE if is_tree else None)
        for cache, (_, new, a, is_tree) in zip(caches, jobs, strict=True)
    ]
    logits = torch.split(family.model.forward(batch), [len(rows.tokens) for rows in batch])
    for ours, (past, new, a, is_tree) in zip(logits, jobs, strict=True):
        if not is_tree:
            theirs = family.others_logits(a, past + new)[len(past) :]
            assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
            continue
        for node in (0, 4, 7, 9):
            path = path_to(node)
            theirs = family.others_logits(a, past + [new[i] for i in path])[-len(path) :]
            assert torch.allclose(ours[path], theirs, atol=1e-4, rtol=1e-4)
