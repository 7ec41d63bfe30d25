"""A step in one process without torch.distributed: what is refused, and what stays as it was."""

import logging

import numpy as np
import pytest
import torch
from sequence_parallel_cases import LENGTHS, Case, make_batch, make_model, make_plan, plain_step
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen3MoeConfig,
)

from finetune.errors import SequenceParallelError
from finetune.sequence_parallel import token_loss
from finetune.sequence_parallel.group_pool import GroupPool
from finetune.sequence_parallel.step import SequenceParallelStep

ALONE = make_plan(LENGTHS, [((0,), (0, 3, 5))], [((0,), (1, 2, 4, 6, 7))])
CPU = torch.device("cpu")

SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
}


def step_of(model, **options):
    return SequenceParallelStep(model, pool=GroupPool(), device=CPU, **options)


def model_of(config):
    torch.manual_seed(5)
    return AutoModelForCausalLM.from_config(config).train()


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3", "gpt2"])
@pytest.mark.parametrize("sharding", ["replicated", "fsdp2"])
def test_equals_plain_training(architecture, sharding):
    """Packing alone changes neither loss nor gradients; with one process nothing is sharded."""
    case = Case(architecture, ALONE, sharding)
    loss, gradients = plain_step(case)
    model = case.model()
    result = step_of(model, sharding=sharding).accumulate(ALONE, make_batch(LENGTHS))
    assert result.loss == pytest.approx(loss, abs=1e-5)
    assert result.num_targets == sum(LENGTHS) - len(LENGTHS)
    assert [timing.lengths for timing in result.timings] == [(13, 9, 31), (7, 5, 3, 1, 6)]
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name], atol=1e-6, rtol=1e-5)


def test_as_many_positions_as_the_model_has():
    """A sequence's last token is only predicted, so it may stand behind the last position."""
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=8)
    plan, batch = make_plan((9, 1, 4), [((0,), (0, 2))], [((0,), (1,))]), make_batch((9, 1, 4))
    model = model_of(config).eval()
    result = step_of(model).accumulate(plan, batch)
    losses = [
        functional.cross_entropy(
            model(input_ids=ids[None, :-1]).logits[0], ids[1:], reduction="sum"
        )
        for ids in map(torch.from_numpy, batch)
        if len(ids) > 1
    ]
    assert result.num_targets == 11
    assert result.loss == pytest.approx(sum(losses).item() / 11, abs=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SMALL, sliding_window=5),
        Qwen3MoeConfig(
            **SMALL, head_dim=8, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2
        ),
    ],
    ids=["mistral", "qwen3-moe"],
)
def test_other_architectures(config):
    """Windows shorter than a sequence, and experts, are computed as transformers does."""
    model, batch = model_of(config), make_batch(LENGTHS)
    num_targets = sum(LENGTHS) - len(LENGTHS)
    losses = [
        functional.cross_entropy(
            model(input_ids=ids[None], use_cache=False).logits[0, :-1], ids[1:], reduction="sum"
        )
        for ids in map(torch.from_numpy, batch)
        if len(ids) > 1
    ]
    torch.stack(losses).sum().div(num_targets).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    step_of(model).accumulate(ALONE, batch)
    for name, weight in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(weight.grad, expected[name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (Gemma2Config(**SMALL, head_dim=8), "gemma2: attention with softcap"),
        (GptOssConfig(**SMALL, head_dim=8, num_local_experts=2), "gpt_oss: attention with s_aux"),
        (LlamaConfig(**SMALL, attention_dropout=0.1), "llama: attention with dropout 0.1"),
        (
            Phi3Config(
                **SMALL,
                original_max_position_embeddings=128,
                rope_parameters={
                    "rope_type": "longrope",
                    "rope_theta": 10000.0,
                    "short_factor": [1.0] * 4,
                    "long_factor": [2.0] * 4,
                },
            ),
            "phi3: longrope",
        ),
        (BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4), "bloom"),
        (FalconH1Config(**SMALL, mamba_d_ssm=32, mamba_n_heads=4), "falcon_h1: convolution"),
    ],
    ids=["softcap", "sinks", "dropout", "longrope", "no-interface", "state-space"],
)
def test_refused_models(config, told):
    """A model whose tokens meet in another way is refused in one line, by name."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    with pytest.raises(SequenceParallelError, match=told) as refusal:
        step_of(model_of(config)).accumulate(ALONE, make_batch(LENGTHS))
    assert "\n" not in str(refusal.value)


def test_no_model_of_transformers():
    """Something else than a decoder is refused."""
    with pytest.raises(SequenceParallelError, match="Linear holds no model of transformers"):
        step_of(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("plan", "lengths", "told"),
    [
        (ALONE, LENGTHS[:-1], "a batch of 7 sequences of 69 tokens is not the plan's of 8 and 75"),
        (ALONE, (14, *LENGTHS[1:]), "is not the plan's"),
        (make_plan((1, 1), [((0,), (0, 1))]), (1, 1), "no token to predict"),
        (make_plan((4, 4), [((0,), (0,))]), (4, 4), "does not train each of 2 sequences once"),
        (make_plan((4,), [((2,), (0,))]), (4,), "a rank 2 and this job 1 processes"),
    ],
    ids=["fewer", "longer", "no-targets", "left-out", "too-many-ranks"],
)
def test_refused_plans(plan, lengths, told):
    """A plan of another job or batch is refused before anything is computed."""
    step = step_of(make_model("llama"))
    with pytest.raises(SequenceParallelError, match=told):
        step.accumulate(plan, make_batch(lengths))


def test_padded_lengths():
    """A plan's lengths may be padded; only true tokens are computed."""
    plan = make_plan((16, 8), [((0,), (0, 1))])
    batch = make_batch((13, 7))
    result = step_of(make_model("llama")).accumulate(plan, batch)
    assert result.timings[0].lengths == (13, 7)
    assert result.num_targets == 18


def test_nothing_stays():
    """Gradients of before are dropped, and elsewhere the model attends as it did."""
    model = make_model("llama", with_lora=True)
    model.get_base_model().set_attn_implementation("eager")
    step, batch = step_of(model), make_batch(LENGTHS)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    step.accumulate(ALONE, batch)
    once = [weight.grad.clone() for weight in weights]
    step.accumulate(ALONE, batch)
    for weight, gradient in zip(weights, once, strict=True):
        assert torch.equal(weight.grad, gradient)
    assert model.get_base_model().config._attn_implementation == "eager"
    assert model(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_loss_by_chunks(monkeypatch):
    """The loss and its gradient do not depend on how many scores are taken at a time."""
    monkeypatch.setattr(token_loss, "_CHUNK_NUMBERS", 3 * 11)
    scores = torch.randn(10, 11, requires_grad=True)
    labels = torch.from_numpy(np.arange(10))
    token_loss.summed_cross_entropy(scores, labels).backward()
    gradient, scores.grad = scores.grad, None
    functional.cross_entropy(scores, labels, reduction="sum").backward()
    torch.testing.assert_close(gradient, scores.grad)
