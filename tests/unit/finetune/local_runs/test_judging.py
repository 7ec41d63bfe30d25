"""What judges a local run's model."""

import math

import numpy as np
import pytest
import torch
from local_job_files import local_job_content

from finetune.errors import LocalRunError
from finetune.local_runs.judging import Judge
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.local_text import LocalText
from finetune.local_runs.ranks import Alone
from finetune.sequence_parallel.step import StepResult
from planner.training.training_plan import BatchPlan, MicroBatch, SequenceGroup


class OneGroup:
    """Plans everything for rank 0."""

    def plan_held_out(self, lengths):
        places = tuple(range(len(lengths)))
        group = SequenceGroup(ranks=(0,), sequences=places, predicted_seconds=1.0)
        return BatchPlan(
            lengths=lengths,
            micro_batches=(MicroBatch(groups=(group,)),),
            predicted_seconds=1.0,
            lower_bound_seconds=1.0,
            solver="heuristic",
            planning_seconds=0.0,
            static=None,
            homogeneous=None,
        )


class Scores:
    """Evaluates every batch to the next of some losses."""

    def __init__(self, *losses):
        self._losses = iter(losses)

    def evaluate(self, plan, batch):
        return StepResult(next(self._losses), sum(len(row) - 1 for row in batch), ())


@pytest.fixture
def judge(tmp_path):
    """A judge of three sequences, two a batch: 4 and 2 tokens to predict, then 6."""
    rows = tuple(np.arange(length) for length in (5, 3, 7))
    content = local_job_content(tmp_path, tmp_path, batch_size=2)
    job = LocalJob.model_validate(content)
    text = LocalText(training=rows, held_out=rows)
    return Judge(text, job, OneGroup(), Alone(torch.device("cpu")))


def test_batches_count_by_their_tokens(judge):
    """Two of six tokens each: the plain mean."""
    assert judge.loss(Scores(1.0, 2.0), torch.nn.Identity()) == (1.5, 12)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_is_told(judge, loss):
    """As when the last step broke the model, whose own loss was of the weights before."""
    with pytest.raises(LocalRunError, match=r"the held-out loss is .*; lower learning_rate"):
        judge.loss(Scores(1.0, loss), torch.nn.Identity())
