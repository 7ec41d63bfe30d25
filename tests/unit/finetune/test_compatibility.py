"""The one table of combinations that a job may not have."""

from itertools import product

import pytest

from finetune.aggregation import STRATEGIES
from finetune.compatibility import REFUSED, Parts, conflict
from finetune.sparsity.config import SparsityConfig
from finetune.trust.config import TrustConfig

SPARSE = {"download_density": 0.5, "upload_density": 0.5}
SPARSITIES = {
    "dense": None,
    "weights": SparsityConfig(**SPARSE),
    "change": SparsityConfig(**SPARSE, download="change"),
    "feedback": SparsityConfig.model_validate(SPARSE | {"error_feedback": {}}),
}
PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5, "most_epsilon": 100.0}
TRUSTS = {
    "checks": TrustConfig(),
    "clip": TrustConfig(clip_norm=1.0),
    "median": TrustConfig.model_validate({"robust": {"kind": "median", "num_attackers": 1}}),
    "krum": TrustConfig.model_validate({"robust": {"kind": "krum", "num_attackers": 1}}),
    "privacy": TrustConfig.model_validate({"privacy": PRIVACY}),
    "secure": TrustConfig.model_validate({"secure_sum": {"threshold": 3}, "clip_norm": 1.0}),
}


def parts(aggregation="fedavg", sparsity="dense", trust="checks", **rest):
    """Return a job's parts by the names above."""
    return Parts(STRATEGIES[aggregation], SPARSITIES[sparsity], TRUSTS[trust], **rest)


def test_plain_parts_go_with_one_another():
    """Each mechanism alone, beside fedavg, dense messages and checks, is taken."""
    assert all(conflict(parts(aggregation=name)) is None for name in STRATEGIES)
    assert all(conflict(parts(sparsity=name)) is None for name in SPARSITIES)
    assert all(conflict(parts(trust=name)) is None for name in TRUSTS)
    assert conflict(parts(is_rank_falling=True, are_ranks_mixed=True, is_deployed=True)) is None


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (parts("ffa", "weights"), "sparsity with aggregation: a mask on A"),
        (parts("fedsvd", "weights"), "a mask on A"),
        (parts("best-rank", "change"), "another meaning each round"),
        (parts("flora", "feedback"), "another meaning each round"),
        (parts(sparsity="weights", is_rank_falling=True), "sparsity with final_rank"),
        (parts(sparsity="weights", are_ranks_mixed=True), "sparsity with clients.rank"),
        (parts(sparsity="weights", trust="privacy"), "positions each client sends"),
        (parts(sparsity="weights", trust="median"), "sparsity with trust.robust"),
        (parts(sparsity="weights", trust="secure"), "sparsity with trust.secure_sum"),
        (parts("lora-fair", trust="privacy"), "average entry by entry"),
        (parts("best-rank", trust="median"), "average entry by entry"),
        (parts("best-rank", trust="secure"), "each client's factors"),
        (parts(trust="secure", are_ranks_mixed=True), "clients.rank with trust.secure_sum"),
        (parts(sparsity="weights", is_deployed=True), "deployment with sparsity"),
        (parts(trust="secure", is_deployed=True), "deployment with trust.secure_sum"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(job, words):
    """The message names both fields, why, and what to do."""
    assert words in conflict(job)


@pytest.mark.parametrize(
    "job",
    [
        parts("best-rank", "weights"),
        parts("lora-fair", "feedback"),
        parts("ffa", trust="secure"),
        parts("best-rank", trust="krum"),
        parts("fedsvd", is_rank_falling=True),
        parts(sparsity="change", trust="krum"),
    ],
)
def test_what_goes_together_is_taken(job):
    """Near a refused pair there is often one that runs."""
    assert conflict(job) is None


def test_every_row_of_the_table_refuses_something():
    """A row that an earlier one always covers would be dead."""
    flags = [False, True]
    jobs = [
        parts(aggregation, sparsity, trust, is_rank_falling=a, are_ranks_mixed=b, is_deployed=c)
        for aggregation, sparsity, trust, a, b, c in product(
            STRATEGIES, SPARSITIES, TRUSTS, flags, flags, flags
        )
    ]
    reasons = {conflict(job) for job in jobs} - {None}
    assert len(reasons) == len(REFUSED)
