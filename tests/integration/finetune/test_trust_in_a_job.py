"""Whole jobs in process with a `trust:` block."""

import json

import pytest
from toy_job import job_content
from watched_job import Watcher

from finetune.config import JobConfig
from finetune.errors import RoundError
from finetune.job import run_job
from finetune.trust.accountant import epsilon_spent


@pytest.fixture
def run(toy_model, texts, tmp_path):
    """Run a toy job under some trust; return its manifest and metrics."""

    def run(trust, **changes):
        content = job_content(toy_model, texts, output=tmp_path / "run", trust=trust, **changes)
        manifest = run_job(
            JobConfig.model_validate(content), folder=tmp_path / "run", observer=Watcher()
        )
        lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
        return manifest, [json.loads(line) for line in lines]

    return run


@pytest.mark.parametrize(
    "trust",
    [
        {"clip_norm": 0.5},
        {"robust": {"kind": "median", "num_attackers": 1}},
        {"robust": {"kind": "trimmed-mean", "num_attackers": 1}},
    ],
    ids=["clip", "median", "trimmed mean"],
)
def test_a_job_under_trust_still_learns(run, trust):
    """Every client's held-out loss falls, and nothing is refused."""
    manifest, lines = run(trust)
    assert all(client.adapter_loss < client.base_loss for client in manifest.clients)
    assert manifest.num_refused_updates == 0
    assert [line["epsilon"] for line in lines] == [None] * 3


def test_a_private_job_states_what_each_round_cost(run):
    """One epsilon a line, that of the rounds so far."""
    privacy = {"clip_norm": 0.1, "noise_multiplier": 2.0, "delta": 1e-5, "most_epsilon": 5.0}
    _, lines = run({"privacy": privacy})
    assert [line["epsilon"] for line in lines] == [
        epsilon_spent(noise_multiplier=2.0, num_rounds=number, delta=1e-5) for number in (1, 2, 3)
    ]


@pytest.mark.parametrize("bound", ["most_norm", "most_product_norm"])
def test_updates_that_are_too_long_are_refused(run, bound):
    """With a bound below any update nothing is left, and each client's reason is named."""
    with pytest.raises(RoundError, match=r"numbers: changes the \w+ by norm .*, above 1e-06"):
        run({bound: 1e-6})


def test_a_job_with_secure_sums_ends_where_the_plain_job_does(run, tmp_path):
    """The server saw sums only; the losses are those of the same job with clipping, nearly."""
    plain, _ = run({"clip_norm": 1.0})
    (tmp_path / "run").rename(tmp_path / "plain")
    secure, lines = run({"clip_norm": 1.0, "secure_sum": {"threshold": 2}})
    for one, other in zip(plain.clients, secure.clients, strict=True):
        assert one.adapter_loss == pytest.approx(other.adapter_loss, abs=1e-4)
        assert other.adapter_loss < other.base_loss
    assert all(line["loss"].keys() == {"secure sum of 3"} for line in lines)
