"""A client's steps through accelerate: precision, memory, accumulation, the model that stays."""

import logging

import numpy as np
import pytest
import torch
from toy_job import job_content
from watched_job import Watcher, metrics

import finetune.federation
from finetune.acceleration import make_accelerator
from finetune.base_model import load_base_model
from finetune.client_texts import read_client
from finetune.config import JobConfig
from finetune.errors import BaseModelError, DeviceError
from finetune.job import run_job
from finetune.local_config import LocalTrainingConfig
from finetune.local_training import LocalTrainer
from finetune.lora import attach_adapter, read_tensors
from finetune.optimisation import AdapterOptimisation, token_loss

CPU = torch.device("cpu")
BATCH = np.arange(4 * 25).reshape(4, 25) % 250


@pytest.fixture
def make(toy_model, texts, tmp_path):
    """Return a function that reads a toy job with this `local_training:`; the batch is 4."""

    def make(local, **changes):
        content = job_content(toy_model, texts, output=tmp_path / "run", batch_size=4, **changes)
        return JobConfig.model_validate(content | {"local_training": local})

    return make


def adapted(job):
    """Return the base model with the job's adapter, B drawn so that A has gradients too."""
    model = attach_adapter(load_base_model(job.model).model, job)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.train()


def trained(job, **words):
    """Return what the first client makes of the untrained adapter, and its loss."""
    base = load_base_model(job.model)
    model = attach_adapter(base.model, job)
    texts = read_client(job.clients[0], held_out_fraction=0.2, render_chat=base.render_chat)
    trainer = LocalTrainer(model, base, texts, job, lambda *_: None)
    return trainer.train(read_tensors(model), round_number=1, **words)


def gradients(model):
    """Return the adapter's gradients for one batch, and the bytes kept for the backward pass.

    The weights, which are there anyway, do not count.
    """
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = token_loss(model, BATCH, reduction="mean", device=CPU)
    for parameter in model.parameters():
        kept.pop(parameter.untyped_storage().data_ptr(), None)
    loss.backward()
    named = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return named, sum(kept.values())


def test_checkpointed_gradients_are_the_same_in_less_memory(make):
    """To 1e-6 of their size, from under half of the bytes kept between the two passes."""
    wanted, all_bytes = gradients(adapted(make({})))
    given, kept_bytes = gradients(adapted(make({"gradient_checkpointing": True})))
    assert given.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert gradient.abs().max() > 0
        torch.testing.assert_close(given[name], gradient, rtol=1e-6, atol=1e-9)
    assert kept_bytes < 0.5 * all_bytes


@pytest.mark.parametrize(
    "local",
    [{"gradient_checkpointing": True}, {"gradient_accumulation_steps": 4}],
    ids=["checkpointing", "accumulation"],
)
def test_what_saves_memory_leaves_the_round_as_it_is(make, local):
    """The adapter after two steps, and the loss, are those of the plain job to rounding."""
    plain, plain_loss = trained(make({}))
    saving, loss = trained(make(local))
    assert loss == pytest.approx(plain_loss, rel=1e-6)
    for name, tensor in plain.items():
        np.testing.assert_allclose(saving[name], tensor, rtol=0, atol=1e-5)


def test_bfloat16_rounds_the_model_but_not_the_adapter(make):
    """The loss differs a little; gradients, and so the adapter, stay float32."""
    _, plain_loss = trained(make({}))
    mixed, loss = trained(make({"precision": "bfloat16"}))
    assert loss != plain_loss
    assert loss == pytest.approx(plain_loss, rel=1e-2)
    assert {tensor.dtype for tensor in mixed.values()} == {np.dtype(np.float32)}
    up = np.concatenate([t.ravel() for name, t in mixed.items() if "lora_B" in name])
    rounded = torch.from_numpy(up).to(torch.bfloat16).float().numpy()
    assert not np.array_equal(up, rounded)


def test_a_precision_of_its_own_for_each_job_of_a_process(make):
    """What accelerate keeps for the process's life does not make a later job another one."""
    first, _ = trained(make({}))
    trained(make({"precision": "bfloat16"}))
    again, _ = trained(make({}))
    for name, tensor in first.items():
        np.testing.assert_array_equal(again[name], tensor)


def test_the_environment_does_not_change_a_job(make, monkeypatch):
    """Variables of `accelerate launch` say nothing about precision and accumulation here."""
    wanted, _ = trained(make({}))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    given, _ = trained(make({}))
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(given[name], tensor)


@pytest.mark.parametrize(
    "local",
    [{"precision": "bfloat16"}, {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}],
    ids=["bfloat16", "saving memory"],
)
def test_an_interrupted_run_goes_on_to_the_same_bits(make, tmp_path, local):
    """Stopped within the second round, the run ends with the unbroken run's adapter."""
    job = make(local)
    run_job(job, folder=tmp_path / "unbroken", observer=Watcher())
    with pytest.raises(KeyboardInterrupt):
        run_job(job, folder=tmp_path / "broken", observer=Watcher(interrupt_after=8))
    run_job(job, folder=tmp_path / "broken", observer=Watcher())
    for name in ("adapter_model.safetensors", "motley.json"):
        unbroken = (tmp_path / "unbroken" / "adapter" / name).read_bytes()
        assert (tmp_path / "broken" / "adapter" / name).read_bytes() == unbroken
    assert metrics(tmp_path / "broken") == metrics(tmp_path / "unbroken")


def test_a_job_loads_its_base_model_once(make, tmp_path, monkeypatch):
    """Three clients over three rounds, each judged and trained: one load for all of them."""
    loads = []

    def load(name):
        loads.append(name)
        return load_base_model(name)

    monkeypatch.setattr(finetune.federation, "load_base_model", load)
    run_job(make({}), folder=tmp_path / "run", observer=Watcher())
    assert len(loads) == 1


@pytest.mark.parametrize(
    ("local", "words"),
    [
        ({"precision": "float16", "device": "cpu"}, "float16 needs a GPU"),
        ({"gradient_accumulation_steps": 3}, "3 does not divide batch_size 4"),
        ({"precision": "int8"}, "float32"),
    ],
)
def test_what_cannot_be_trained_is_one_line(make, local, words):
    """The message names the key, the value and what to take instead."""
    with pytest.raises((ValueError, DeviceError), match=words):
        trained(make(local))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named(make):
    """A lost GPU does not turn into slow training."""
    with pytest.raises(DeviceError, match=r"device: cuda, and torch finds cpu"):
        trained(make({"device": "cuda"}))


def test_a_model_without_checkpointing_is_named(make, monkeypatch):
    """Some architectures have none; the key is named instead of training without it."""
    job = make({"gradient_checkpointing": True})
    model = load_base_model(job.model).model
    monkeypatch.setattr(type(model), "supports_gradient_checkpointing", False)
    with pytest.raises(BaseModelError, match=r"gradient_checkpointing: .* does not support"):
        attach_adapter(model, job)


def overflowing(model, job, *, scale):
    """Return steps whose loss is scaled by so much, as float16's is; on a processor, in float32."""
    optimisation = AdapterOptimisation(model, job)
    accelerator = optimisation._accelerator
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    accelerator.native_amp = True
    accelerator.state._mixed_precision = "fp16"
    optimisation._optimiser = accelerator.prepare(optimisation._optimiser.optimizer)
    accelerator._optimizers = [optimisation._optimiser]
    return optimisation


@pytest.fixture
def accelerates_state():
    """Let accelerate forget the precision that a test put on it."""
    yield
    make_accelerator(LocalTrainingConfig(precision="bfloat16"))
    make_accelerator(LocalTrainingConfig())


@pytest.mark.usefixtures("accelerates_state")
@pytest.mark.parametrize("mu", [0.0, 0.5])
def test_a_step_that_overflows_is_taken_at_a_smaller_scale(make, mu):
    """It ends where the unscaled step ends, FedProx's pull included, and the tries are counted."""
    job = make({}, proximal_mu=mu)
    plain, scaled = adapted(job), adapted(job)
    steps = AdapterOptimisation(plain, job)
    wanted = [steps.step(BATCH), steps.step(BATCH)]
    optimisation = overflowing(scaled, job, scale=2.0**127)
    assert [optimisation.step(BATCH), optimisation.step(BATCH)] == pytest.approx(wanted, rel=1e-5)
    assert optimisation.num_overflows >= 1
    for name, tensor in read_tensors(plain).items():
        np.testing.assert_allclose(read_tensors(scaled)[name], tensor, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("accelerates_state")
def test_gradients_beyond_every_scale_end_in_a_log_line(make, caplog):
    """The step is not taken, and nothing goes round for ever."""
    job = make({})
    model = adapted(job)
    before = read_tensors(model)
    optimisation = overflowing(model, job, scale=2.0**127)
    with torch.no_grad():
        model.get_base_model().model.norm.weight.mul_(1e30)
    assert np.isfinite(optimisation.step(BATCH))
    assert "step not taken overflows=24" in caplog.text
    for name, tensor in read_tensors(model).items():
        np.testing.assert_array_equal(tensor, before[name])


def test_the_log_says_where_and_how_a_client_trains(make, caplog):
    """One line a client, before the first round."""
    with caplog.at_level(logging.INFO):
        trained(make({"precision": "bfloat16", "device": "cpu"}))
    assert "local training client=numbers device=cpu precision=bfloat16" in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_gpu_trains_as_the_processor_does(make, precision):
    """The same batches: nearly the same loss, and in float32 nearly the same adapter."""
    plain, plain_loss = trained(make({"device": "cpu"}))
    given, loss = trained(make({"device": "cuda", "precision": precision}))
    assert loss == pytest.approx(plain_loss, rel=1e-2)
    for name, tensor in given.items():
        assert tensor.dtype == np.float32
        assert tensor.shape == plain[name].shape
        if precision == "float32":
            np.testing.assert_allclose(tensor, plain[name], rtol=0, atol=1e-3)
