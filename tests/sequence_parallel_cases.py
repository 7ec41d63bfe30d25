"""Small models, batches and plans of sequence-parallel training, and a plain loop to judge it by."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2Config,
)

from planner.training.training_plan import BatchPlan, MicroBatch, SequenceGroup

WORLD_SIZE = 4
VOCABULARY = 97

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def _config(architecture):
    if architecture == "llama":
        return LlamaConfig(**_SIZES, num_attention_heads=4, num_key_value_heads=4)
    if architecture == "llama-6-heads":
        sizes = _SIZES | {"hidden_size": 48}
        return LlamaConfig(**sizes, num_attention_heads=6, num_key_value_heads=2)
    if architecture == "qwen2":
        return Qwen2Config(
            **_SIZES, num_attention_heads=8, num_key_value_heads=2, tie_word_embeddings=True
        )
    if architecture == "gemma3":
        return Gemma3TextConfig(
            **_SIZES,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=8,
            query_pre_attn_scalar=8,
            sliding_window=6,
            layer_types=["sliding_attention", "full_attention"],
        )
    return GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=256,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
    )


def make_model(architecture, *, with_lora=False, with_checkpointing=False):
    """Return a random model, the same at each call; frozen but for adapters if it has them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(_config(architecture))
        if with_lora:
            is_gpt2 = architecture == "gpt2"
            targets = ["c_attn"] if is_gpt2 else ["q_proj", "v_proj", "down_proj"]
            config = LoraConfig(r=4, target_modules=targets, fan_in_fan_out=is_gpt2)
            model = get_peft_model(model, config)
            for name, weight in model.named_parameters():
                if ".lora_B." in name:
                    torch.nn.init.normal_(weight, std=0.1)
    if with_checkpointing:
        base = model.get_base_model() if with_lora else model
        base.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    return model


def make_batch(lengths):
    """Return sequences of random tokens, the same at each call."""
    generator = np.random.default_rng(3)
    return [generator.integers(0, VOCABULARY, size=n, dtype=np.int64) for n in lengths]


def make_plan(lengths, *micro_batches):
    """Return a plan of micro-batches, each a list of (ranks, sequences)."""
    return BatchPlan(
        lengths=tuple(lengths),
        micro_batches=tuple(
            MicroBatch(
                groups=tuple(
                    SequenceGroup(ranks=ranks, sequences=sequences, predicted_seconds=1.0)
                    for ranks, sequences in groups
                )
            )
            for groups in micro_batches
        ),
        predicted_seconds=1.0,
        lower_bound_seconds=1.0,
        solver="heuristic",
        planning_seconds=0.0,
        static=None,
        homogeneous=None,
    )


LENGTHS = (13, 7, 5, 9, 3, 31, 1, 6)
"""Odd ones, one that predicts nothing, and one much longer than the rest."""

MIXED = make_plan(
    LENGTHS,
    [((0, 1), (0, 1, 6)), ((2,), (2, 3)), ((3,), (4,))],
    [((0, 1, 2, 3), (5, 7))],
)
"""Groups of 2, 1 and 1 ranks, then one of 4."""

IDLE = make_plan(LENGTHS, [((0, 2), (0, 1, 2, 3, 4, 6))], [((1, 3), (5,)), ((2,), (7,))])
"""Ranks in no group, and groups that are no neighbours."""

THREES = make_plan(LENGTHS, [((0, 1, 2), (0, 1, 5)), ((3,), (2, 3))], [((1, 2, 3), (4, 6, 7))])
"""A degree that is no power of two, over ranks with unequal pasts."""

UNLABELLED = make_plan((2, 2, 1), [((0, 1, 2, 3), (0, 1, 2))])
"""Shares with nothing to predict."""


@dataclass(frozen=True)
class Case:
    """A model, how it is held and who trains what."""

    architecture: str
    plan: BatchPlan
    sharding: str = "replicated"
    with_lora: bool = False
    with_checkpointing: bool = False
    precision: str = "float32"

    def model(self):
        """Return the untrained model."""
        return make_model(
            self.architecture,
            with_lora=self.with_lora,
            with_checkpointing=self.with_checkpointing,
        )


CASES = {
    "llama": Case("llama", MIXED),
    "llama-fsdp2": Case("llama", MIXED, "fsdp2"),
    "llama-lora": Case("llama", MIXED, with_lora=True),
    "llama-lora-fsdp2": Case("llama", MIXED, "fsdp2", with_lora=True),
    "llama-checkpointing": Case("llama", MIXED, with_checkpointing=True),
    "llama-lora-checkpointing-fsdp2": Case(
        "llama", MIXED, "fsdp2", with_lora=True, with_checkpointing=True
    ),
    "llama-idle": Case("llama", IDLE),
    "llama-idle-fsdp2": Case("llama", IDLE, "fsdp2"),
    "llama-unlabelled": Case("llama", UNLABELLED),
    "llama-unlabelled-fsdp2": Case("llama", UNLABELLED, "fsdp2"),
    "llama-threes": Case("llama-6-heads", THREES),
    "qwen2": Case("qwen2", MIXED),
    "qwen2-lora-checkpointing": Case("qwen2", MIXED, with_lora=True, with_checkpointing=True),
    "qwen2-fsdp2": Case("qwen2", MIXED, "fsdp2"),
    "gemma3": Case("gemma3", MIXED),
    "gemma3-fsdp2": Case("gemma3", MIXED, "fsdp2"),
    "gpt2": Case("gpt2", MIXED),
    "gpt2-lora-fsdp2": Case("gpt2", MIXED, "fsdp2", with_lora=True),
    "llama-bfloat16": Case("llama", MIXED, precision="bfloat16"),
    "llama-bfloat16-fsdp2": Case("llama", MIXED, "fsdp2", precision="bfloat16"),
}


def plain_step(case):
    """Return loss and gradients of one process: one sequence a forward, transformers' attention."""
    model = make_model(case.architecture, with_lora=case.with_lora)
    base = model.get_base_model() if case.with_lora else model
    base.set_attn_implementation("eager")
    sequences = make_batch(case.plan.lengths)
    num_targets = sum(len(ids) - 1 for ids in sequences)
    loss = 0.0
    for ids in map(torch.from_numpy, sequences):
        if len(ids) < 2:
            continue
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        part = functional.cross_entropy(logits, ids[1:], reduction="sum") / num_targets
        part.backward()
        loss += part.item()
    assert math.isfinite(loss)
    return loss, {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
