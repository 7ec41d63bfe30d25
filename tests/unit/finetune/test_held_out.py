"""Held-out losses that clients report: what is believed, and what it makes of a round."""

import logging
import math

import numpy as np
import pytest

from finetune.errors import RoundError
from finetune.held_out import HeldOut, Judgement
from finetune.judged_training import is_judged
from finetune.rounds import FederationState, Replies, judge, run_round
from finetune.updates import Evaluation, Update

START = {"a": np.zeros((1, 2), np.float32)}
BASE = (Evaluation("x", 2.0, 50), Evaluation("y", 4.0, 50))


class JudgingClients:
    """Two clients; `y` reports what it is made with."""

    def __init__(self, report):
        self.report = report

    def train(self, tensors, *, round_number):
        fine, report = Evaluation("x", 1.5, 50), self.report
        updates = [
            Update("x", START, 1, loss=0.5, sent_bytes=10, held_out=(fine,)),
            Update("y", START, 1, loss=0.5, sent_bytes=10, held_out=(report,) if report else ()),
        ]
        return Replies(updates, [], download_bytes=100)

    def tell(self, refusals):
        assert not refusals

    def evaluate(self, tensors):
        return Judgement((Evaluation("x", 1.5, 50), self.report))


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (Evaluation("y", math.nan, 50), "reports a held-out loss of nan"),
        (Evaluation("y", math.inf, 50), "reports a held-out loss of inf"),
        (Evaluation("y", -0.1, 50), "reports a held-out loss of -0.1, 0 to 1000 are believed"),
        (Evaluation("y", 1e9, 50), "reports a held-out loss of 1e+09"),
        (Evaluation("y", 3.0, 0), "reports 0 held-out tokens"),
        (Evaluation("y", 3.0, 1 << 60), "held-out tokens, 1 to 1000000000 are believed"),
    ],
)
def test_an_absurd_number_is_refused_alone(report, reason, caplog):
    """The number is left out, logged and named; the client's update counts, and so does the job."""
    state = FederationState(1, START, BASE)
    with caplog.at_level(logging.INFO):
        after, record = run_round(state, JudgingClients(report))
        judgement = judge(JudgingClients(report), START)
    assert (after.num_refused, record.refused, record.loss.keys()) == (0, {}, {"x", "y"})
    assert record.held_out.loss == {"x": 1.5}
    assert reason in record.held_out.refused["y"]
    assert "held-out loss refused completed_rounds=1 client=y" in caplog.text
    assert [one.client for one in judgement.evaluations] == ["x"]
    assert "judgement refused client=y" in caplog.text


def test_a_result_that_nobody_could_judge_is_none():
    """Where no loss is believed the job fails, with each client's reason."""
    clients = JudgingClients(Evaluation("y", math.nan, 50))
    clients.evaluate = lambda tensors: Judgement((Evaluation("y", math.nan, 50),))
    with pytest.raises(RoundError, match="client 'y' reports a held-out loss of nan"):
        judge(clients, None)


def test_the_log_tells_mean_and_worst_domain(caplog):
    """The worst is the client whose loss changed most for the worse, not the highest loss."""
    state = FederationState(1, START, BASE)
    with caplog.at_level(logging.INFO):
        _, record = run_round(state, JudgingClients(Evaluation("y", 1.0, 50)))
    held_out = record.held_out
    assert (held_out.mean, held_out.worst, held_out.worst_change) == (1.25, "x", -0.5)
    line = "completed_rounds=1 clients=2 held_out_mean=1.2500 worst=x worst_change=-0.5000"
    assert line in caplog.text


def test_a_client_that_did_not_judge_the_base_model_is_in_the_mean_alone():
    """Without a loss to compare it cannot be the worst domain."""
    held_out = HeldOut.of([Evaluation("new", 9.0, 5)], base=BASE)
    assert (held_out.mean, held_out.worst, held_out.worst_change) == (9.0, None, None)


def test_nobody_judged_is_no_mean():
    """A round without judgements has empty tables, not zeros."""
    assert HeldOut.of([], base=BASE) == HeldOut()


@pytest.mark.parametrize(
    ("every", "rounds"), [(0, []), (1, [2, 3, 4, 5, 6, 7]), (2, [3, 5, 7]), (3, [4, 7])]
)
def test_rounds_are_judged_every_so_many(every, rounds):
    """Counting from the base model, whose judgement the first round repeats for nothing."""
    assert [number for number in range(1, 8) if is_judged(number, every=every)] == rounds
