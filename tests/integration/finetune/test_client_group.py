"""A federated client whose steps several processes take together."""

import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from toy_job import job_content
from watched_job import Watcher, metrics

from finetune.base_model import load_base_model
from finetune.client_group.client_group import ClientGroup
from finetune.client_texts import read_client
from finetune.config import JobConfig
from finetune.errors import DeviceError
from finetune.job import run_job
from finetune.local_training import LocalTrainer
from finetune.lora import attach_adapter, read_tensors


@pytest.fixture
def make(toy_model, texts, tmp_path):
    """Return a function that reads a toy job with this `local_training:`; the batch is 4."""

    def make(local, *, name="run", **changes):
        content = job_content(toy_model, texts, output=tmp_path / name, batch_size=4, **changes)
        return JobConfig.model_validate(content | {"local_training": local})

    return make


def trainer_of(job, *, processes, on_step=lambda *_: None, **options):
    """Return the first client's trainer, the untrained adapter and the processes it trains with."""
    base = load_base_model(job.model)
    model = attach_adapter(base.model, job)
    texts = read_client(job.clients[0], held_out_fraction=0.2, render_chat=base.render_chat)
    group = ClientGroup(model, job, **options) if processes > 1 else None
    trainer = LocalTrainer(model, base, texts, job, on_step, group)
    return trainer, read_tensors(model), group


def threads():
    """Return how many threads torch computes with here."""
    return torch.get_num_threads()


def interrupt(round_number, loss):
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def test_two_processes_return_the_update_of_one(make):
    """Every tensor and every loss to 1e-5, over two rounds, with a proximal term."""
    alone, first, _ = trainer_of(make({}, proximal_mu=0.1), processes=1)
    together, same, group = trainer_of(make({"processes": 2}, proximal_mu=0.1), processes=2)
    try:
        for round_number in (1, 2):
            expected, loss = alone.train(first, round_number=round_number)
            found, shared = together.train(same, round_number=round_number)
            assert shared == pytest.approx(loss, abs=1e-5)
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                np.testing.assert_allclose(found[name], tensor, atol=1e-5, rtol=0)
            assert any(np.abs(expected[name] - first[name]).max() > 1e-4 for name in expected)
            first, same = expected, found
        assert together.evaluate(same)[0] == pytest.approx(alone.evaluate(first)[0], abs=1e-5)
    finally:
        group.close()


def test_a_process_that_dies_costs_its_round_and_is_started_again(make):
    """The client says which one ended; the next round has a new one."""
    trainer, first, group = trainer_of(make({"processes": 2}), processes=2)
    try:
        expected, _ = trainer.train(first, round_number=1)
        os.kill(group.process_ids[0], signal.SIGKILL)
        with pytest.raises(DeviceError, match=r"processes 2: process 1 ended \(status -9\)"):
            trainer.train(first, round_number=1)
        found, _ = trainer.train(first, round_number=1)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor)
    finally:
        group.close()


def test_a_process_that_is_stopped_is_given_up(make):
    """The client does not wait for it in the middle of a step, and the next round has a new one."""

    def stop(round_number, loss):
        if round_number == 2:
            os.kill(group.process_ids[0], signal.SIGSTOP)

    trainer, first, group = trainer_of(
        make({"processes": 2}), processes=2, on_step=stop, patience_seconds=1.0
    )
    try:
        expected, _ = trainer.train(first, round_number=1)
        with pytest.raises(DeviceError, match="processes 2: process 1 was stopped for 1 s; the"):
            trainer.train(first, round_number=2)
        assert not multiprocessing.active_children()
        found, _ = trainer.train(first, round_number=1)
        for name, tensor in expected.items():
            np.testing.assert_array_equal(found[name], tensor)
    finally:
        group.close()


def test_the_processors_are_shared_while_the_processes_train(make):
    """This process has as many threads as each other one, and all of its own afterwards."""
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(4)
    try:
        trainer, first, group = trainer_of(
            make({"processes": 2}), processes=2, on_step=lambda *_: seen.append(threads())
        )
        trainer.train(first, round_number=1)
        group.close()
        assert set(seen) == {2}
        assert threads() == 4
    finally:
        torch.set_num_threads(before)


def test_an_interrupted_round_leaves_no_process(make):
    """Those in the middle of an exchange end with it, and not by being killed for being late."""
    trainer, first, group = trainer_of(make({"processes": 2}), processes=2, on_step=interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            trainer.train(first, round_number=1)
        assert not multiprocessing.active_children()
        assert not group.process_ids
    finally:
        group.close()


def test_a_federated_job_trains_with_clients_of_two_processes(make):
    """The job's losses are those of clients with one process, and no process is left."""
    one, two = make({}, name="one"), make({"processes": 2}, name="two")
    for job in (one, two):
        run_job(job, folder=job.output, observer=Watcher())
    for alone, together in zip(metrics(one.output), metrics(two.output), strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], abs=1e-5)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("local", "words"),
    [
        ({"processes": 2, "precision": "float16"}, "whose loss scale"),
        ({"processes": 2, "gradient_accumulation_steps": 2}, "leave it out"),
        ({"processes": 0}, "greater than 0"),
    ],
)
def test_what_processes_cannot_do_together_is_refused(make, local, words):
    """float16, and a second way of cutting the batch."""
    with pytest.raises(ValueError, match=words):
        make(local)
