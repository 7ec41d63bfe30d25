"""Chains ahead of set acceptance: what they state is what the engine counts."""

import itertools

import pytest
from benchmarks.pre_drafting import expected_gain, ideal_gain
from benchmarks.replayed_ahead import ReplayedAhead, SleepingWorker
from toy_model import TableModel, random_table

from serving.engine.engine import Engine, EngineLimits
from serving.engine.pre_drafting import PreDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest

TARGET = TableModel(random_table(40, seed=1))
PROMPT = (1, 2)


def run(drafter):
    limits = EngineLimits(kv_bytes=5000, max_sequences=1, max_waiting=1)
    engine = Engine(TARGET, drafter, num_draft_tokens=3, limits=limits, eos_ids=frozenset())
    params = SamplingParams(temperature=0.0, max_tokens=600)
    engine.add(GenerationRequest("a", PROMPT, params, seed=0))
    text = []
    while engine.has_work:
        text += itertools.chain.from_iterable(output.tokens for output in engine.step())
    engine.close()
    return text, engine


def replayed(text, acceptance):
    worker = SleepingWorker(0.0)
    return ReplayedAhead(
        worker, {"a": [*PROMPT, *text]}, acceptance=acceptance, second_acceptance=0.5, seed=1
    )


@pytest.mark.parametrize("acceptance", [0.5, 0.8])
def test_a_round_emits_what_the_acceptance_says(acceptance):
    """One token and each drafted one with the chance that all up to it are right."""
    text, _ = run(None)
    drafted, engine = run(replayed(text, acceptance))
    assert drafted == text
    tau = 1 + acceptance + acceptance**2 + acceptance**3
    assert engine.counters.acceptance_length == pytest.approx(tau, rel=0.1)


def test_drafts_ahead_are_ready_as_often_as_the_acceptances_say():
    """Refused places are half met by their second token, and going on as often as accepted."""
    text, _ = run(None)
    ahead = PreDrafter(replayed(text, 0.8), least_chance=0.0)
    waiting = TARGET.forward

    class Patient(TableModel):
        def forward(self, batch, ids_T=None):
            ahead.wait()
            return waiting(batch, ids_T)

    limits = EngineLimits(kv_bytes=5000, max_sequences=1, max_waiting=1)
    engine = Engine(
        Patient(TARGET.logits), ahead, num_draft_tokens=3, limits=limits, eos_ids=frozenset()
    )
    params = SamplingParams(temperature=0.0, max_tokens=600)
    engine.add(GenerationRequest("a", PROMPT, params, seed=0))
    while engine.has_work:
        engine.step()
    engine.close()
    expected = 0.8**4 + (1 - 0.8**3) * 0.5
    assert ahead.counts.used / ahead.counts.asked == pytest.approx(expected, abs=0.08)


def test_gains_by_hand():
    """Half of verifying: 1.5 rounds' time in 1; at half of the drafts ready, in 1.25."""
    assert ideal_gain(0.5) == 1.5
    assert ideal_gain(2.0) == 1.5
    assert expected_gain(0.5, 1.0) == 1.5
    assert expected_gain(0.5, 0.5) == pytest.approx(1.5 / 1.25)
    assert expected_gain(0.5, 0.0) == 1
