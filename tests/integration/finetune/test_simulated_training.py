"""Real gradients under the virtual clock."""

import numpy as np
import pytest
from toy_job import job_content

from finetune.base_model import load_base_model
from finetune.client_texts import read_client
from finetune.config import JobConfig
from finetune.local_training import LocalTrainer
from finetune.lora import attach_adapter, read_tensors
from finetune.scheduling.decisions import Client
from finetune.scheduling.documents import make_scheduler
from finetune.scheduling.fedcompass import FedCompassSettings
from finetune.simulated_training import RealTraining
from finetune.virtual_clock import SimulatedClient, VirtualClock


@pytest.fixture
def trainers(toy_model, texts, tmp_path):
    """Each toy client's trainer, and the untrained adapter."""
    job = JobConfig.model_validate(job_content(toy_model, texts, output=tmp_path / "run"))
    base = load_base_model(job.model)
    model = attach_adapter(base.model, job)

    def trainer(client):
        read = read_client(
            client, held_out_fraction=job.held_out_fraction, render_chat=base.render_chat
        )
        return LocalTrainer(model, base, read, job, lambda *_: None)

    start = read_tensors(model)
    return {client.name: trainer(client) for client in job.clients}, start


def test_compass_trains_a_real_adapter(trainers):
    """Three clients 1, 2 and 8 times slow: each one's held-out loss falls in 40 virtual seconds."""
    by_name, start = trainers
    machines = [
        SimulatedClient(Client(name, trainer.num_examples), seconds, 1e6, 1e6)
        for (name, trainer), seconds in zip(by_name.items(), (0.5, 1.0, 4.0), strict=True)
    ]
    scheduler = make_scheduler(FedCompassSettings(least_steps=1, most_steps=4))
    clock = VirtualClock(scheduler, RealTraining(by_name), machines, {"": start})
    clock.run(until_seconds=40)
    assert clock.discards.total() == 0
    for trainer in by_name.values():
        assert trainer.evaluate(clock.adapters[""])[0] < trainer.evaluate(start)[0]


def test_an_update_that_is_not_finite_does_not_reach_the_adapter(trainers):
    """The server's checks run as in a real round; the discard is counted."""
    _, start = trainers

    class Broken:
        num_examples = 1

        def train(self, tensors, *, round_number, num_steps):
            return {name: tensor * np.nan for name, tensor in tensors.items()}, 1.0

    machines = [SimulatedClient(Client("broken", 1), 1.0, 1e6, 1e6)]
    scheduler = make_scheduler(FedCompassSettings(least_steps=1, most_steps=4))
    clock = VirtualClock(scheduler, RealTraining({"broken": Broken()}), machines, {"": start})
    clock.run(until_seconds=10)
    assert clock.num_aggregations == 0
    assert clock.discards["refused by the checks"] > 0
