"""The federation that is trained: real gradients on the tiny draft, speeds 1 to 8 by client.

Every client holds one kind of text and has one speed, drawn by the seed, so speed and domain go
together. Links take about as long as 9 steps of the fastest client or 1 of the slowest.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import cycle

import numpy as np
from benchmarks.federated_time_texts import Share, client_texts
from peft import PeftModel

from finetune.base_model import BaseModel, load_base_model
from finetune.config import JobConfig
from finetune.local_training import LocalTrainer
from finetune.lora import attach_adapter, read_tensors
from finetune.scheduling.decisions import Client
from finetune.updates import Tensors
from finetune.virtual_clock import SimulatedClient

MODEL = "serving/models/tiny/draft"
RANK, ALPHA = 8, 16
TARGETS = ("gate_proj", "up_proj", "down_proj")
BATCH_SIZE, SEQUENCE_TOKENS = 2, 64
HELD_OUT_BATCH, HELD_OUT_SEQUENCE, HELD_OUT_TOKENS = 8, 128, 1_024
FASTEST_SECONDS_PER_STEP = 0.1
MOST_SLOWNESS = 8
NUM_SPEEDS = 8
DOWNLOAD_BYTES_PER_SECOND = 500_000
UPLOAD_BYTES_PER_SECOND = 250_000
SETUP = {
    "model": MODEL,
    "rank": RANK,
    "alpha": ALPHA,
    "targets": TARGETS,
    "batch_size": BATCH_SIZE,
    "sequence_tokens": SEQUENCE_TOKENS,
    "held_out_tokens": HELD_OUT_TOKENS,
    "fastest_seconds_per_step": FASTEST_SECONDS_PER_STEP,
    "most_slowness": MOST_SLOWNESS,
    "download_bytes_per_second": DOWNLOAD_BYTES_PER_SECOND,
    "upload_bytes_per_second": UPLOAD_BYTES_PER_SECOND,
}
"""What all runs share, as the results state it."""


class Federation:
    """Clients on one base model, trained at one learning rate.

    Attributes:
        start: The untrained adapter.
        trainers: By client's name, which is its number among the shares.
        num_examples: By client's name.
    """

    def __init__(self, shares: Sequence[Share], *, seed: int, learning_rate: float) -> None:
        """Read the text and draw the first adapter."""
        base, model, self.start = _model(seed)
        names = [f"client-{number}" for number in range(len(shares))]
        texts = [client_texts(*pair) for pair in zip(names, shares, strict=True)]
        job = _job(names, seed=seed, learning_rate=learning_rate)
        judging = job.model_copy(
            update={"batch_size": HELD_OUT_BATCH, "sequence_tokens": HELD_OUT_SEQUENCE}
        )
        self.trainers = {
            one.client: LocalTrainer(model, base, one, job, lambda *_: None) for one in texts
        }
        self._judges = [LocalTrainer(model, base, one, judging, lambda *_: None) for one in texts]
        self.num_examples = {name: one.num_examples for name, one in self.trainers.items()}

    def losses(self, tensors: Tensors) -> list[float]:
        """Return the adapter's loss on each client's held-out text, nats a token."""
        return [judge.evaluate(tensors)[0] for judge in self._judges]


def machines(num_examples: Mapping[str, int], *, seed: int) -> list[SimulatedClient]:
    """Return one machine a client: slowness evenly from 1 to 8 in drawn order, links that differ.

    Of four times as many clients four are of each speed, and of one domain.
    """
    random = np.random.default_rng((seed, 4))
    order = random.permutation(NUM_SPEEDS)
    slowness = np.linspace(1, MOST_SLOWNESS, NUM_SPEEDS)[order]
    links = np.exp(random.normal(0, 0.2, len(num_examples)))
    return [
        SimulatedClient(
            Client(name, num_examples[name]),
            float(FASTEST_SECONDS_PER_STEP * slow),
            float(DOWNLOAD_BYTES_PER_SECOND * link),
            float(UPLOAD_BYTES_PER_SECOND * link),
        )
        for name, slow, link in zip(num_examples, cycle(slowness), links, strict=False)
    ]


@cache
def _model(seed: int) -> tuple[BaseModel, PeftModel, Tensors]:
    base = load_base_model(MODEL)
    model = attach_adapter(base.model, _job(["any"], seed=seed, learning_rate=1.0))
    return base, model, read_tensors(model)


def _job(names: Sequence[str], *, seed: int, learning_rate: float) -> JobConfig:
    return JobConfig.model_validate(
        {
            "schema_version": 1,
            "name": "federated-time",
            "model": MODEL,
            "rank": RANK,
            "alpha": ALPHA,
            "target_modules": TARGETS,
            "rounds": 1,
            "local_steps": 1,
            "batch_size": BATCH_SIZE,
            "sequence_tokens": SEQUENCE_TOKENS,
            "learning_rate": learning_rate,
            "seed": seed,
            "held_out_fraction": 0.5,  # the texts are split already
            "held_out_tokens": HELD_OUT_TOKENS,
            "output": "runs/federated-time",
            "clients": [
                {"name": name, "data": {"kind": "package", "name": "none"}} for name in names
            ],
        }
    )
