"""Which parts of a job do not go together, in one table, with the reason; asked when it is read."""

from collections.abc import Callable
from dataclasses import dataclass

from finetune.sparsity.config import SparsityConfig
from finetune.strategies.strategy import Strategy
from finetune.trust.config import NO_MORE_THAN_CHECKS, TrustConfig


@dataclass(frozen=True, slots=True)
class Parts:
    """What a job combines.

    Attributes:
        strategy: How updates become one adapter.
        sparsity: What crosses; None is all.
        trust: What the server believes and may see.
        is_rank_falling: The adapter's rank falls during training.
        are_ranks_mixed: Some clients train fewer components than others.
        is_deployed: Clients are processes of their own, on machines of their own.
    """

    strategy: Strategy
    sparsity: SparsityConfig | None = None
    trust: TrustConfig = NO_MORE_THAN_CHECKS
    is_rank_falling: bool = False
    are_ranks_mixed: bool = False
    is_deployed: bool = False

    @property
    def remembers_entries(self) -> bool:
        """Whether a value of an earlier round is added to the same entry of a later one."""
        sparsity = self.sparsity
        return sparsity is not None and (
            sparsity.download == "change" or sparsity.error_feedback is not None
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A combination that is refused.

    Attributes:
        parts: The fields of the job that meet.
        holds: Whether a job has it.
        reason: Why not, and what to do.
    """

    parts: tuple[str, str]
    holds: Callable[[Parts], bool]
    reason: str


REFUSED = (
    Refusal(
        ("sparsity", "aggregation"),
        lambda job: job.sparsity is not None and job.strategy.is_down_frozen,
        "a mask on A breaks the exactness that a frozen A is for; take fedavg",
    ),
    Refusal(
        ("sparsity", "aggregation"),
        lambda job: job.remembers_entries and not job.strategy.keeps_basis,
        "this aggregation gives the entries another meaning each round, and what was remembered of "
        "them none; take fedavg, or download weights without error_feedback",
    ),
    Refusal(
        ("sparsity", "final_rank"),
        lambda job: job.sparsity is not None and job.is_rank_falling,
        "masks are of one shape, which changes with the rank; squeeze the result instead",
    ),
    Refusal(
        ("sparsity", "clients.rank"),
        lambda job: job.sparsity is not None and job.are_ranks_mixed,
        "a client's entries are counted over the whole adapter; leave the clients' ranks out",
    ),
    Refusal(
        ("sparsity", "trust.privacy"),
        lambda job: job.sparsity is not None and job.trust.privacy is not None,
        "privacy hides values, but the positions each client sends come from its data too; send all "
        "entries",
    ),
    Refusal(
        ("sparsity", "trust.robust"),
        lambda job: job.sparsity is not None and job.trust.averages_entries,
        "an entry that most clients leave out counts as unchanged and would never move; take krum, "
        "or send all entries",
    ),
    Refusal(
        ("sparsity", "trust.secure_sum"),
        lambda job: job.sparsity is not None and job.trust.secure_sum is not None,
        "a secure sum adds entry by entry; send all entries",
    ),
    Refusal(
        ("aggregation", "trust"),
        lambda job: job.trust.averages_entries and job.strategy.needs_each_update,
        "privacy, the median and the trimmed mean average entry by entry, which leaves this "
        "aggregation nothing to do; take fedavg",
    ),
    Refusal(
        ("aggregation", "trust.secure_sum"),
        lambda job: job.trust.secure_sum is not None and job.strategy.needs_each_update,
        "this aggregation needs each client's factors, which a secure sum hides; take fedavg",
    ),
    Refusal(
        ("clients.rank", "trust.secure_sum"),
        lambda job: job.trust.secure_sum is not None and job.are_ranks_mixed,
        "a secure sum adds entry by entry; leave the clients' ranks out",
    ),
    Refusal(
        ("deployment", "sparsity"),
        lambda job: job.is_deployed and job.sparsity is not None,
        "processes of their own send whole adapters so far; leave sparsity out",
    ),
    Refusal(
        ("deployment", "trust.secure_sum"),
        lambda job: job.is_deployed and job.trust.secure_sum is not None,
        "secure sums run in one process so far; leave secure_sum out",
    ),
)
"""Every combination that a job may not have; all others run, which a test shows."""


def conflict(job: Parts) -> str | None:
    """Return why a job's parts do not go together, or None."""
    for refusal in REFUSED:
        if refusal.holds(job):
            return f"{' with '.join(refusal.parts)}: {refusal.reason}"
    return None
