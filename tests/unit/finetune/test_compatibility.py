"""The one table of combinations: refused, or allowed with what is done."""

from itertools import product
from pathlib import Path

import pytest

from finetune.aggregation import STRATEGIES
from finetune.compatibility import COMBINATIONS, Parts, conflict, table, transformations
from finetune.scheduling.config import (
    FedAstScheduling,
    FedBuffScheduling,
    FedCompassScheduling,
    FedStaleConfig,
    MachineConfig,
    SynchronousScheduling,
    VirtualClockConfig,
)
from finetune.sparsity.config import SparsityConfig
from finetune.trust.config import TrustConfig

SPARSE = {"download_density": 0.5, "upload_density": 0.5}
SPARSITIES = {
    "dense": None,
    "weights": SparsityConfig(**SPARSE),
    "change": SparsityConfig(**SPARSE, download="change"),
    "feedback": SparsityConfig.model_validate(SPARSE | {"error_feedback": {}}),
    "shared": SparsityConfig(**SPARSE, mask="shared"),
    "shared-int8": SparsityConfig(**SPARSE, mask="shared", upload_values="int8"),
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
MACHINE = MachineConfig(seconds_per_step=1, download_bytes_per_second=1, upload_bytes_per_second=1)
CLOCK = VirtualClockConfig(machines={"one": MACHINE})
SCHEDULINGS = {
    "none": None,
    "synchronous": SynchronousScheduling(local_steps=2),
    "fedstale": SynchronousScheduling(local_steps=2, fedstale=FedStaleConfig(beta=0.5)),
    "virtual": SynchronousScheduling(local_steps=2, virtual_clock=CLOCK),
    "fedcompass": FedCompassScheduling(least_steps=1, most_steps=2),
    "fedbuff": FedBuffScheduling(local_steps=2, buffer_size=2),
    "fedast": FedAstScheduling(local_steps=2, buffer_size=2, adapters=("x", "y")),
}


def parts(aggregation="fedavg", sparsity="dense", trust="checks", scheduling="none", **rest):
    """Return a job's parts by the names above."""
    return Parts(
        STRATEGIES[aggregation],
        SPARSITIES[sparsity],
        TRUSTS[trust],
        scheduling=SCHEDULINGS[scheduling],
        **rest,
    )


def test_plain_parts_go_with_one_another():
    """Each mechanism alone, beside fedavg, dense messages and checks, is taken."""
    assert all(conflict(parts(aggregation=name)) is None for name in STRATEGIES)
    assert all(conflict(parts(sparsity=name)) is None for name in SPARSITIES)
    assert all(conflict(parts(trust=name)) is None for name in TRUSTS)
    assert all(conflict(parts(scheduling=name)) is None for name in SCHEDULINGS)
    assert conflict(parts(is_rank_falling=True, are_ranks_mixed=True, is_deployed=True)) is None


@pytest.mark.parametrize(
    ("job", "words"),
    [
        (parts("fedsvd", "weights"), "sparsity with aggregation: the mean is exact"),
        (parts("ffa", "weights", is_rank_falling=True), "sparsity with final_rank: a squeeze"),
        (parts(sparsity="weights", are_ranks_mixed=True), "sparsity with clients.rank"),
        (parts(sparsity="weights", trust="privacy"), "positions each client sends"),
        (parts(sparsity="weights", trust="median"), "sparsity with trust.robust"),
        (parts(sparsity="weights", trust="secure"), "sparsity with trust.secure_sum"),
        (parts(sparsity="shared-int8", trust="secure"), "sparsity.upload_values with trust"),
        (parts("lora-fair", trust="privacy"), "average entry by entry"),
        (parts("best-rank", trust="median"), "average entry by entry"),
        (parts("best-rank", trust="secure"), "each client's factors"),
        (parts(trust="secure", are_ranks_mixed=True), "clients.rank with trust.secure_sum"),
        (
            parts(sparsity="feedback", is_deployed=True, is_keyless=True),
            "--insecure with sparsity: without keys",
        ),
        (parts(sparsity="change", is_deployed=True, is_keyless=True), "--insecure with sparsity"),
        (parts(trust="secure", is_deployed=True), "deployment with trust.secure_sum"),
        (
            parts(sparsity="weights", scheduling="fedbuff", is_deployed=True),
            "deployment with sparsity and scheduling",
        ),
        (parts("lora-fair", scheduling="fedbuff"), "scheduling with aggregation"),
        (parts("fedsvd", scheduling="fedcompass"), "scheduling with aggregation"),
        (parts("lora-fair-cosine", scheduling="fedast"), "fedsvd turns an A"),
        (parts(scheduling="fedcompass", is_rank_falling=True), "scheduling with final_rank"),
        (parts("ffa", scheduling="fedbuff", is_rank_falling=True), "take best-rank or flora"),
        (parts("flora", scheduling="fedbuff", trust="krum"), "scheduling with trust.robust"),
        (parts(scheduling="fedbuff", trust="krum"), "scheduling with trust.robust"),
        (parts(scheduling="fedast", trust="privacy"), "scheduling with trust.privacy"),
        (parts(scheduling="synchronous", trust="secure"), "scheduling with trust.secure_sum"),
        (parts(scheduling="fedast", sparsity="change"), "scheduling with sparsity"),
        (parts("best-rank", scheduling="fedstale"), "scheduling.fedstale with aggregation"),
        (parts(scheduling="fedstale", trust="privacy"), "scheduling.fedstale with trust"),
        (parts(scheduling="virtual", is_deployed=True), "with scheduling.virtual_clock"),
        (parts(scheduling="fedast", is_deployed=True), "deployment with scheduling"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_reason(job, words):
    """The message names both fields, why, and what to do."""
    assert words in conflict(job)


@pytest.mark.parametrize(
    ("job", "done"),
    [
        (parts("best-rank", "weights"), []),
        (parts("best-rank", "change"), ["bases turned back"]),
        (parts("flora", "feedback"), ["bases turned back"]),
        (parts("lora-fair", "feedback"), []),
        (parts("ffa", "change"), ["A by seed"]),
        (
            parts(sparsity="change", is_rank_falling=True),
            ["rebased at a squeeze", "squeezed by the server"],
        ),
        (parts(sparsity="shared", trust="privacy"), ["noise in the mask"]),
        (parts(sparsity="shared", trust="secure"), ["sum of the mask"]),
        (parts(sparsity="shared", trust="median"), []),
        (parts("ffa", trust="secure"), []),
        (parts("best-rank", trust="krum"), []),
        (parts("fedsvd", is_rank_falling=True), ["squeezed by the server"]),
        (parts(sparsity="change", trust="krum"), []),
        (parts(are_ranks_mixed=True), ["components completed"]),
        (parts(sparsity="feedback", is_deployed=True), []),
        (parts(sparsity="weights", is_deployed=True, is_keyless=True), []),
        (
            parts("ffa", scheduling="fedcompass", trust="clip", are_ranks_mixed=True),
            ["components completed"],
        ),
        (
            parts("best-rank", scheduling="synchronous", trust="krum", is_rank_falling=True),
            ["squeezed by the server"],
        ),
        (parts(scheduling="fedbuff", sparsity="feedback"), []),
        (parts("flora", scheduling="fedcompass"), ["stale updates stacked as products"]),
        (parts("best-rank", scheduling="synchronous"), []),
        (
            parts("best-rank", scheduling="fedast", is_rank_falling=True),
            ["squeezed by the server", "stale updates stacked as products"],
        ),
        (
            parts("best-rank", "change", scheduling="fedbuff"),
            ["bases turned back", "stale updates stacked as products"],
        ),
        (
            parts("ffa", scheduling="fedstale", is_rank_falling=True, is_deployed=True),
            ["squeezed by the server"],
        ),
        (parts(scheduling="fedcompass", is_deployed=True), []),
    ],
)
def test_what_goes_together_is_taken_with_what_is_done_for_it(job, done):
    """Near a refused pair there is often one that runs, some with a named transformation."""
    assert conflict(job) is None
    assert transformations(job) == done


def test_every_row_of_the_table_says_something():
    """A row that an earlier one always covers would be dead."""
    flags = [False, True]
    jobs = [
        parts(
            aggregation,
            sparsity,
            trust,
            scheduling,
            is_rank_falling=a,
            are_ranks_mixed=b,
            is_deployed=c,
            is_keyless=c,
        )
        for aggregation, sparsity, trust, scheduling, a, b, c in product(
            STRATEGIES, SPARSITIES, TRUSTS, SCHEDULINGS, flags, flags, flags
        )
    ]
    reasons = {conflict(job) for job in jobs} - {None}
    assert len(reasons) == sum(combination.is_refused for combination in COMBINATIONS)
    taken = [job for job in jobs if conflict(job) is None]
    done = {name for job in taken for name in transformations(job)}
    assert done == {c.transformation for c in COMBINATIONS if not c.is_refused}


def test_the_architecture_page_shows_the_table():
    """`motley finetune combinations` prints what the page must hold."""
    page = Path(__file__).parents[3] / "ARCHITECTURE.md"
    assert table() in page.read_text(encoding="utf-8")
