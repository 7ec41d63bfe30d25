"""A client of a deployed job that misbehaves in round 1: `deployed_client.py JOB NAME nan|slow`."""

import sys
import time
from pathlib import Path

import numpy as np

from finetune.config import JobConfig
from finetune.deployment.client import make_trainer, run_client
from planner.console import configure_logging
from planner.documents import read_document

SLOW_SECONDS = 8.0


class Misbehaving:
    """A trainer that sends NaN, or takes its time, in round 1."""

    def __init__(self, trainer, fault):
        self.num_examples = trainer.num_examples
        self._trainer, self._fault = trainer, fault

    def train(self, tensors, *, round_number):
        trained, loss = self._trainer.train(tensors, round_number=round_number)
        if round_number == 1 and self._fault == "nan":
            trained = {name: np.full_like(tensor, np.nan) for name, tensor in trained.items()}
        if round_number == 1 and self._fault == "slow":
            time.sleep(SLOW_SECONDS)
        return trained, loss

    def evaluate(self, tensors):
        return self._trainer.evaluate(tensors)


def make_misbehaving(job, client):
    """Return the client's trainer with the fault of the command line."""
    trainer, base = make_trainer(job, client)
    return Misbehaving(trainer, sys.argv[3]), base


if __name__ == "__main__":
    configure_logging()
    run_client(
        read_document(Path(sys.argv[1]), JobConfig),
        name=sys.argv[2],
        insecure=False,
        make_trainer=make_misbehaving,
    )
