"""What a job's strategy averages under the job's trust."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from finetune.aggregation import FEDAVG
from finetune.config import JobConfig
from finetune.errors import CohortError, PrivacyBudgetError, SecureSumError
from finetune.trust.combine import changes, combine, moved
from finetune.trust.config import NO_MORE_THAN_CHECKS, TrustConfig
from finetune.trust.norms import product_squared_distances
from finetune.trust.privacy import noise, noisy_mean
from finetune.trust.robust import squared_distances
from finetune.trust.round_trust import RoundTrust
from finetune.updates import Update

DOWN, UP = "m.q.lora_A.weight", "m.q.lora_B.weight"
START = {DOWN: np.ones((1, 3), np.float32), UP: np.zeros((2, 1), np.float32)}


def mean_of(updates):
    """Return the mean of clients of one rank and alpha."""
    return FEDAVG.combine(updates, like=updates[0].tensors, round_number=1)[0]


def updates(*steps):
    """Return one update a step, which is added to every entry; the first has most examples."""
    return [
        Update(f"c{i}", {name: t + np.float32(step) for name, t in START.items()}, 9 - i, 1.0, 0)
        for i, step in enumerate(steps)
    ]


def combined(trust, *steps, **rest):
    """Combine updates of so many clients."""
    config = TrustConfig.model_validate(trust)
    return combine(updates(*steps), start=START, trust=config, num_expected=len(steps), **rest)


def test_without_more_than_checks_the_updates_stay():
    """The strategy averages what the clients sent."""
    sent = updates(1, 2)
    assert combine(sent, start=START, trust=NO_MORE_THAN_CHECKS, num_expected=2) == sent


def test_a_change_is_flattened_and_put_back():
    """Rows are changes against the start, and a start moved by a row is the client's adapter."""
    generator = np.random.default_rng(2)
    tensors = {name: generator.normal(size=t.shape).astype(np.float32) for name, t in START.items()}
    shuffled = {name: tensors[name] for name in (UP, DOWN)}
    (row,) = changes([Update("c", shuffled, 1, 1.0, 0)], start=START)
    for name, tensor in moved(START, row).items():
        np.testing.assert_allclose(tensor, tensors[name], rtol=1e-6)


def test_long_changes_are_clipped_counted_and_named(caplog):
    """Five entries of 4 have norm sqrt 80; clipped to sqrt 5 every entry is 1."""
    with caplog.at_level(logging.INFO):
        first, second = combined({"clip_norm": float(np.sqrt(5))}, 4, 0.5)
    np.testing.assert_allclose(first.tensors[UP], np.ones((2, 1)), rtol=1e-6)
    np.testing.assert_array_equal(second.tensors[UP], np.full((2, 1), 0.5, np.float32))
    assert (first.num_examples, second.num_examples) == (9, 8)
    assert "clients=['c0'] num=1" in caplog.text


def test_a_claim_of_examples_is_capped_counted_and_named(caplog):
    """Claims of 9 and 8 under a cap of 8 weigh the same, so the mean of 1 and 3 is 2."""
    with caplog.at_level(logging.INFO):
        believed = combined({"most_examples": 8}, 1, 3)
    assert [update.num_examples for update in believed] == [8, 8]
    np.testing.assert_allclose(mean_of(believed)[UP], np.full((2, 1), 2.0), rtol=1e-6)
    assert "examples capped clients=['c0'] num=1 most_examples=8" in caplog.text
    believed = combined({"most_examples": 9}, 1, 3)
    assert [update.num_examples for update in believed] == [9, 8]


@pytest.mark.parametrize(
    ("robust", "step"),
    [
        ({"kind": "median", "num_attackers": 1}, 2.0),
        ({"kind": "trimmed-mean", "num_attackers": 1}, 6.5 / 3),
        ({"kind": "krum", "num_attackers": 1}, 1.5),
        ({"kind": "krum", "num_attackers": 1, "num_kept": None, "distance": "factors"}, 1.25),
    ],
)
def test_every_rule_keeps_an_attacker_out_of_the_average(robust, step):
    """Changes 1, 1.5, 2, 3 and 1000: what the strategy returns does not know of 1000."""
    believed = combined({"robust": robust}, 1, 1.5, 2, 3, 1000)
    np.testing.assert_allclose(mean_of(believed)[UP], np.full((2, 1), step), rtol=1e-6)


def test_products_agree_where_factors_do_not():
    """Factors with both signs turned are far apart, their products are equal; a third is not."""
    tensors = {DOWN: START[DOWN] * 3, UP: START[UP] + 3}
    turned = {name: -tensor for name, tensor in tensors.items()}
    longer = {DOWN: tensors[DOWN], UP: tensors[UP] * 2}
    products = product_squared_distances([tensors, turned, longer], scale=0.5)
    expected = 6 * 4.5**2  # six entries of 9 become 18, halved by the scale
    np.testing.assert_allclose(
        products, [[0, 0, expected], [0, 0, expected], [expected, expected, 0]], atol=1e-9
    )
    sent = [Update("c", adapter, 1, 1.0, 0) for adapter in (tensors, turned)]
    assert squared_distances(changes(sent, start=START))[0, 1] == 5 * 36


def test_too_few_usable_updates_end_the_job():
    """A rule that needs three clients is not run on two."""
    with pytest.raises(CohortError, match="median against 1 attackers needs 3 clients, 2 gave"):
        combined({"robust": {"kind": "median", "num_attackers": 1}}, 1, 2)


PRIVACY = {"clip_norm": 2.0, "noise_multiplier": 3.0, "delta": 1e-5, "most_epsilon": 9.0}


def test_a_private_round_clips_adds_noise_once_and_divides_by_those_asked():
    """With the same generator the step is (sum of clipped changes + noise) / clients asked."""
    believed = combined({"privacy": PRIVACY}, 4, 0.1, generator=np.random.default_rng(5))
    drawn = np.random.default_rng(5).normal(0.0, 6.0, 5)
    expected = (2 / np.sqrt(5) + 0.1 + drawn) / 2
    (one,) = believed
    np.testing.assert_allclose(one.tensors[UP].ravel(), expected[3:], rtol=1e-5)
    assert one.num_examples == 1


def test_the_noise_has_the_stated_deviation():
    """Over 100,000 entries the sum's deviation is clip_norm times noise_multiplier, within 2 %."""
    step, _ = noisy_mean(
        np.zeros((3, 100_000)),
        clip_norm=0.5,
        noise_multiplier=4.0,
        num_expected=10,
        generator=np.random.default_rng(1),
    )
    assert step.std() * 10 == pytest.approx(2.0, rel=0.02)
    assert abs(step.mean()) * 10 < 0.04


def test_without_a_generator_the_noise_never_repeats():
    """Noise that could be drawn again could be taken off again."""
    assert not np.array_equal(noise(8, 1.0), noise(8, 1.0))


def test_more_answers_than_were_asked_for_are_refused():
    """The denominator would not bound one client's part."""
    with pytest.raises(ValueError, match="3 clients answered, 2 were asked"):
        noisy_mean(np.zeros((3, 4)), clip_norm=1.0, noise_multiplier=1.0, num_expected=2)


def test_epsilon_is_told_each_round_until_it_is_spent(caplog):
    """One log line a round; the round past the limit is not begun."""
    trust = RoundTrust(TrustConfig.model_validate({"privacy": PRIVACY | {"most_epsilon": 2.5}}))
    with caplog.at_level(logging.INFO):
        first, second = trust.spend(1), trust.spend(2)
    assert 0 < first < second <= 2.5
    assert f"privacy spent round=2 epsilon={second:.3f} delta=1e-05" in caplog.text
    with pytest.raises(PrivacyBudgetError):
        trust.spend(3)
    assert RoundTrust().spend(1) is None


def job(trust, *, num_clients=5):
    """Return a job with so many clients."""
    clients = [
        {"name": f"c{i}", "data": {"kind": "package", "name": "rich"}} for i in range(num_clients)
    ]
    return JobConfig.model_validate(
        {
            "schema_version": 1, "name": "j", "model": "m", "rank": 2, "alpha": 4, "rounds": 2,
            "target_modules": ["q_proj"], "local_steps": 1, "batch_size": 1, "sequence_tokens": 8,
            "learning_rate": 0.1, "held_out_fraction": 0.1, "output": "o", "clients": clients,
            "trust": trust,
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    ("trust", "words"),
    [
        ({"robust": {"kind": "krum", "num_attackers": 2}}, "5 clients, 7 are needed"),
        (
            {"robust": {"kind": "krum", "num_attackers": 1, "num_kept": 3}},
            "5 clients, 6 are needed; lower num_attackers or num_kept",
        ),
        ({"robust": {"kind": "median", "num_attackers": 3}}, "5 clients, 7 are needed"),
        ({"privacy": PRIVACY | {"delta": 0.2}}, "delta: 0.2 lets one of 5 clients"),
        ({"privacy": PRIVACY | {"most_epsilon": 1.0}}, "2 rounds spend 2.03, more than 1"),
        ({"privacy": PRIVACY, "clip_norm": 1.0}, "clip_norm: 1 beside privacy.clip_norm"),
        (
            {"privacy": PRIVACY, "robust": {"kind": "median", "num_attackers": 1}},
            "median with privacy has no bound",
        ),
        ({"clip_norm": 0}, "greater than 0"),
        (
            {"secure_sum": {"threshold": 3}, "robust": {"kind": "median", "num_attackers": 1}},
            "compares single updates",
        ),
        (
            {"secure_sum": {"threshold": 3}, "clip_norm": 1.0, "most_norm": 1.0},
            "hides how long an update is",
        ),
        ({"secure_sum": {"threshold": 3}}, "give clip_norm, or privacy"),
        ({"secure_sum": {"threshold": 2}, "clip_norm": 1.0}, "threshold: 2 of 5 clients"),
        ({"secure_sum": {"threshold": 6}, "clip_norm": 1.0}, "threshold: 6 of 5 clients"),
        ({"robust": {"kind": "mean"}}, "median"),
        ({"privacy": PRIVACY, "most_examples": 9}, "most_examples: 9 bounds weights"),
        (
            {"robust": {"kind": "median", "num_attackers": 1}, "most_examples": 9},
            "most_examples: 9 bounds weights",
        ),
    ],
)
def test_an_impossible_trust_is_refused_when_the_job_is_read(trust, words):
    """The message names the field, the value and what to change."""
    with pytest.raises(ValidationError, match=words):
        job(trust)


def test_a_job_says_nothing_about_trust_by_default():
    """Old job files keep their meaning: checks of form and of the base model only."""
    assert job({}).trust == NO_MORE_THAN_CHECKS
    assert job({"robust": {"kind": "krum", "num_attackers": 1, "num_kept": 2}}).trust.robust


SECURE = {"secure_sum": {"threshold": 3}, "clip_norm": 1.0}


def test_single_updates_do_not_pass_for_a_sum():
    """Where the job asks for a secure sum, clients that do not take part end the job."""
    trust = RoundTrust(TrustConfig.model_validate(SECURE))
    with pytest.raises(SecureSumError, match="single updates came"):
        trust.believed(updates(1, 2), start=START, round_number=1)
    whole = [replace(updates(1)[0], is_sum=True)]
    assert trust.believed(whole, start=START, round_number=1) == whole
