"""A step in a world of one rank: NCCL where there is a GPU, gloo to check the test itself."""

import sys
import time

import pytest
import torch
import torch.distributed as dist
from child_processes import free_port
from sequence_parallel_cases import (
    LENGTHS,
    Case,
    make_batch,
    make_plan,
    plain_step,
)
from torch.distributed.tensor import DTensor
from torch.nn import functional
from transformers import AutoModelForCausalLM, Qwen2Config

from finetune.sequence_parallel.distributed import distributed_job
from finetune.sequence_parallel.group_pool import GroupPool
from finetune.sequence_parallel.step import SequenceParallelStep

ALONE = make_plan(LENGTHS, [((0,), (0, 3, 5))], [((0,), (1, 2, 4, 6, 7))])
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def launched(monkeypatch):
    """Say what torchrun says to a job's only process."""
    words = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, word in (words | {"MASTER_PORT": str(free_port())}).items():
        monkeypatch.setenv(name, word)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sharding", ["replicated", "fsdp2"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["qwen2", "gemma3"])
def test_matches_plain_training_on_the_cpu(launched, device, sharding, precision, architecture):
    """Loss and gradients equal float32 on the CPU, to the precision's rounding."""
    case = Case(architecture, ALONE, sharding, precision=precision)
    loss, gradients = plain_step(case)
    model = case.model()
    with distributed_job(device) as found:
        assert found.type == device
        assert dist.get_backend() == ("nccl" if device == "cuda" else "gloo")
        step = SequenceParallelStep(
            model, pool=GroupPool(), device=found, precision=precision, sharding=sharding
        )
        result = step.accumulate(ALONE, make_batch(LENGTHS))
        whole = {}
        for name, weight in model.named_parameters():
            assert isinstance(weight.grad, DTensor) == (sharding == "fsdp2")
            grad = weight.grad.full_tensor() if sharding == "fsdp2" else weight.grad
            whole[name] = grad.float().cpu()
    ours = torch.cat([whole[name].flatten() for name in gradients])
    plain = torch.cat([gradient.flatten() for gradient in gradients.values()])
    if precision == "float32":
        assert result.loss == pytest.approx(loss, abs=1e-4)
        torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-3)
    else:
        assert result.loss == pytest.approx(loss, rel=0.01)
        assert functional.cosine_similarity(ours, plain, dim=0) > 0.99


@pytest.mark.parametrize(
    ("device", "sizes", "lengths"),
    [
        ("cpu", {"hidden_size": 32, "num_hidden_layers": 2}, (60, 20, 41)),
        pytest.param(
            "cuda",
            {"hidden_size": 1024, "num_hidden_layers": 24},
            (8192, 4096, 2048, 1024, 512, 255, 127),
            marks=pytest.mark.gpu,
        ),
    ],
    ids=["cpu", "cuda"],
)
def test_speed_and_memory(launched, record_property, device, sizes, lengths):
    """Tokens a second and peak memory of a bfloat16 step are reported (`pytest -rP`)."""
    config = Qwen2Config(
        vocab_size=32000,
        intermediate_size=4 * sizes["hidden_size"],
        num_attention_heads=16,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        **sizes,
    )
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).train()
    plan = make_plan(lengths, [((0,), tuple(range(len(lengths))))])
    batch = make_batch(lengths)
    with distributed_job(device) as found:
        step = SequenceParallelStep(model, pool=GroupPool(), device=found, precision="bfloat16")
        step.accumulate(plan, batch)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        repeats = 3
        for _ in range(repeats):
            result = step.accumulate(plan, batch)
        seconds = (time.perf_counter() - began) / repeats
        peak_bytes = torch.cuda.max_memory_allocated() if device == "cuda" else 0
    assert result.loss > 0
    figures = {
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "tokens_per_second": round(sum(lengths) / seconds),
        "peak_bytes": peak_bytes,
    }
    for name, value in figures.items():
        record_property(name, value)
    sys.stdout.write(f"{device} bfloat16 step: {figures}\n")
