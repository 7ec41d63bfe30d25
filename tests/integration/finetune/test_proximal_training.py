"""FedProx's term in local training."""

import numpy as np
from toy_job import job_content

from finetune.base_model import load_base_model
from finetune.client_texts import read_client
from finetune.config import JobConfig
from finetune.local_training import LocalTrainer
from finetune.lora import attach_adapter, read_tensors


def test_a_proximal_term_keeps_the_adapter_near_its_start(toy_model, texts, tmp_path):
    """A pull makes the way from the start shorter; 0 trains as without one."""

    def distance(**changes):
        content = job_content(toy_model, texts, output=tmp_path / "run", local_steps=8, **changes)
        job = JobConfig.model_validate(content)
        base = load_base_model(job.model)
        model = attach_adapter(base.model, job)
        start = read_tensors(model)
        client = read_client(
            job.clients[0], held_out_fraction=job.held_out_fraction, render_chat=base.render_chat
        )
        trainer = LocalTrainer(model, base, client, job, lambda *_: None)
        trained, _ = trainer.train(start, round_number=1)
        return sum(float(np.square(trained[name] - start[name]).sum()) for name in start)

    free = distance()
    assert distance(proximal_mu=0.0) == free
    pulled = distance(proximal_mu=1.0)
    assert pulled < 0.5 * free
