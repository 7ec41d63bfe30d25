"""Which parts of a job go together, in one table: refused with the reason, or allowed with what is done.

Pairs that it does not name run as they are, which a test shows. A job asks it when it is read.
"""

from collections.abc import Callable
from dataclasses import dataclass

from finetune.scheduling.config import SchedulingConfig, SynchronousScheduling
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
        is_keyless: They are, and prove by no key who they are.
        scheduling: Who trains when; None is all clients in every round.
    """

    strategy: Strategy
    sparsity: SparsityConfig | None = None
    trust: TrustConfig = NO_MORE_THAN_CHECKS
    is_rank_falling: bool = False
    are_ranks_mixed: bool = False
    is_deployed: bool = False
    is_keyless: bool = False
    scheduling: SchedulingConfig | None = None

    @property
    def is_asynchronous(self) -> bool:
        """Whether updates of different versions are merged."""
        return self.scheduling is not None and self.scheduling.kind != "synchronous"

    @property
    def has_several_adapters(self) -> bool:
        """Whether one pool of clients trains several."""
        return self.scheduling is not None and self.scheduling.kind == "fedast"

    @property
    def has_stale_memory(self) -> bool:
        """Whether remembered changes stand in for clients that are absent from a round."""
        scheduling = self.scheduling
        return isinstance(scheduling, SynchronousScheduling) and scheduling.fedstale is not None

    @property
    def is_linear(self) -> bool:
        """Whether changes of the factors, made at different times, can be added up."""
        return self.strategy.keeps_basis and not self.strategy.needs_each_update

    @property
    def stacks_products(self) -> bool:
        """Whether an update of an older version counts by what it changed of the products."""
        strategy = self.strategy
        return self.is_asynchronous and strategy.needs_each_update and not strategy.keeps_basis

    @property
    def remembers_entries(self) -> bool:
        """Whether a value of an earlier round is added to the same entry of a later one."""
        return self.sparsity is not None and self.sparsity.remembers

    @property
    def is_turned_back(self) -> bool:
        """Whether entries are remembered of an aggregation that would change what they mean."""
        return self.remembers_entries and not self.strategy.keeps_basis

    @property
    def has_own_masks(self) -> bool:
        """Whether each client chooses which entries it sends."""
        return self.sparsity is not None and self.sparsity.mask == "own"

    @property
    def has_shared_mask(self) -> bool:
        """Whether all clients send the same entries of the adapter."""
        return self.sparsity is not None and self.sparsity.mask == "shared"


@dataclass(frozen=True, slots=True)
class Combination:
    """A combination that is refused, or allowed with something done.

    Attributes:
        parts: The fields of the job, or an option of its start, that meet.
        case: Which of their values, for people.
        holds: Whether a job has it.
        reason: Why it is refused, and what to do; or what the transformation does.
        transformation: What is done, in two or three words; None where it is refused.
    """

    parts: tuple[str, str]
    case: str
    holds: Callable[[Parts], bool]
    reason: str
    transformation: str | None = None

    @property
    def is_refused(self) -> bool:
        """Whether no job may have it."""
        return self.transformation is None


COMBINATIONS = (
    Combination(
        ("sparsity", "aggregation"),
        "fedsvd",
        lambda job: (
            job.sparsity is not None
            and job.strategy.is_down_frozen
            and not job.strategy.keeps_basis
        ),
        "the mean is exact while all hold one A, which this turns each round and a mask would tear; "
        "take ffa, whose A stays",
    ),
    Combination(
        ("sparsity", "aggregation"),
        "ffa",
        lambda job: (
            job.sparsity is not None and job.strategy.is_down_frozen and job.strategy.keeps_basis
        ),
        "every client makes A from the seed and checks it; the masks are of B alone",
        "A by seed",
    ),
    Combination(
        ("sparsity", "aggregation"),
        "download change or error_feedback, best-rank or flora",
        lambda job: job.is_turned_back,
        "the new factors are rotated to lie nearest the old, so that entries keep their meaning; the "
        "product is the same, components are no longer in order of weight",
        "bases turned back",
    ),
    Combination(
        ("sparsity", "final_rank"),
        "ffa",
        lambda job: (
            job.sparsity is not None and job.is_rank_falling and job.strategy.is_down_frozen
        ),
        "a squeeze changes the A that clients make from the seed; squeeze the result instead",
    ),
    Combination(
        ("sparsity", "final_rank"),
        "all others",
        lambda job: job.sparsity is not None and job.is_rank_falling,
        "at a squeeze copies are forgotten; with download change residuals are carried to the new "
        "factors and the adapter goes whole once, with download weights residuals are dropped",
        "rebased at a squeeze",
    ),
    Combination(
        ("sparsity", "clients.rank"),
        "any",
        lambda job: job.sparsity is not None and job.are_ranks_mixed,
        "a client's entries are counted over the whole adapter; leave the clients' ranks out",
    ),
    Combination(
        ("sparsity", "trust.privacy"),
        "mask own",
        lambda job: job.has_own_masks and job.trust.privacy is not None,
        "privacy hides values, but the positions each client sends come from its data too; take "
        "mask: shared, or send all entries",
    ),
    Combination(
        ("sparsity", "trust.privacy"),
        "mask shared",
        lambda job: job.has_shared_mask and job.trust.privacy is not None,
        "changes are clipped as they are sent, residual included, and only the entries in the mask "
        "get noise",
        "noise in the mask",
    ),
    Combination(
        ("sparsity", "trust.robust"),
        "mask own, median or trimmed-mean",
        lambda job: job.has_own_masks and job.trust.averages_entries,
        "an entry that most clients leave out counts as unchanged and would never move; take krum "
        "or mask: shared, or send all entries",
    ),
    Combination(
        ("sparsity", "trust.secure_sum"),
        "mask own",
        lambda job: job.has_own_masks and job.trust.secure_sum is not None,
        "a secure sum adds entry by entry; take mask: shared, or send all entries",
    ),
    Combination(
        ("sparsity.upload_values", "trust.secure_sum"),
        "not float32",
        lambda job: (
            job.sparsity is not None
            and job.sparsity.upload_values != "float32"
            and job.trust.secure_sum is not None
        ),
        "the sum's entries have a width of their own; leave upload_values out and set "
        "secure_sum.bits",
    ),
    Combination(
        ("sparsity", "trust.secure_sum"),
        "mask shared",
        lambda job: job.has_shared_mask and job.trust.secure_sum is not None,
        "the sum is of the entries in the mask alone, residual included",
        "sum of the mask",
    ),
    Combination(
        ("deployment", "sparsity and scheduling"),
        "both, of `server` and `client`",
        lambda job: job.is_deployed and job.sparsity is not None and job.scheduling is not None,
        "the assignments of a scheduled job cross machines as whole adapters so far; leave one of "
        "the two out",
    ),
    Combination(
        ("aggregation", "trust"),
        "not fedavg, ffa or fedsvd; privacy, median or trimmed-mean",
        lambda job: job.trust.averages_entries and job.strategy.needs_each_update,
        "privacy, the median and the trimmed mean average entry by entry, which leaves this "
        "aggregation nothing to do; take fedavg",
    ),
    Combination(
        ("aggregation", "trust.secure_sum"),
        "not fedavg, ffa or fedsvd",
        lambda job: job.trust.secure_sum is not None and job.strategy.needs_each_update,
        "this aggregation needs each client's factors, which a secure sum hides; take fedavg",
    ),
    Combination(
        ("clients.rank", "trust.robust"),
        "median or trimmed-mean",
        lambda job: (
            job.are_ranks_mixed and job.trust.robust is not None and job.trust.averages_entries
        ),
        "components that most clients do not train count as unchanged and would never move; take "
        "krum, or leave the clients' ranks out",
    ),
    Combination(
        ("clients.rank", "trust.secure_sum"),
        "any",
        lambda job: job.trust.secure_sum is not None and job.are_ranks_mixed,
        "a secure sum adds entry by entry; leave the clients' ranks out",
    ),
    Combination(
        ("clients.rank", "aggregation"),
        "any",
        lambda job: job.are_ranks_mixed,
        "a client is sent its first components and sends them back; the others stay the server's in "
        "its update",
        "components completed",
    ),
    Combination(
        ("final_rank", "aggregation"),
        "any",
        lambda job: job.is_rank_falling,
        "the server cuts the mean to the nearest of the next rank; moments start anew each round",
        "squeezed by the server",
    ),
    Combination(
        ("--insecure", "sparsity"),
        "download change or error_feedback",
        lambda job: job.is_keyless and job.remembers_entries,
        "without keys the server does not know whom it sends to, and so not what that client holds; "
        "make keys with `motley finetune certs`, or download weights without error_feedback",
    ),
    Combination(
        ("deployment", "trust.secure_sum"),
        "any",
        lambda job: job.is_deployed and job.trust.secure_sum is not None,
        "on several machines each client would need its peers' signing keys, which `motley finetune "
        "certs` does not make yet; leave secure_sum out, or run the job in one process",
    ),
    Combination(
        ("scheduling", "aggregation"),
        "asynchronous; best-rank or flora",
        lambda job: job.stacks_products,
        "an update is kept as the change of its products, factors of twice the rank; a version is the "
        "nearest of its rank to the current products and the weighted changes stacked",
        "stale updates stacked as products",
    ),
    Combination(
        ("scheduling", "aggregation"),
        "asynchronous; lora-fair, lora-fair-cosine or fedsvd",
        lambda job: job.is_asynchronous and not (job.is_linear or job.stacks_products),
        "lora-fair corrects the mean of one version's updates, fedsvd turns an A that all of them "
        "hold, and these are of several; take another aggregation, or synchronous scheduling",
    ),
    Combination(
        ("scheduling", "final_rank"),
        "asynchronous; fedavg or ffa",
        lambda job: job.is_asynchronous and job.is_rank_falling and not job.stacks_products,
        "a change of the factors begun before the rank fell belongs to another basis; take best-rank "
        "or flora, or squeeze the result instead",
    ),
    Combination(
        ("scheduling", "trust.robust"),
        "asynchronous",
        lambda job: job.is_asynchronous and job.trust.robust is not None,
        "it compares updates of one version, and these are of several; take synchronous scheduling",
    ),
    Combination(
        ("scheduling", "trust.privacy"),
        "asynchronous",
        lambda job: job.is_asynchronous and job.trust.privacy is not None,
        "epsilon is counted over rounds in which a client sends once; take synchronous scheduling",
    ),
    Combination(
        ("scheduling", "trust.secure_sum"),
        "any",
        lambda job: job.scheduling is not None and job.trust.secure_sum is not None,
        "a secure sum takes all clients through several messages together; leave scheduling out",
    ),
    Combination(
        ("scheduling", "sparsity"),
        "fedast",
        lambda job: job.has_several_adapters and job.sparsity is not None,
        "copies and residuals are kept of one adapter; train them one after the other, or densely",
    ),
    Combination(
        ("scheduling.fedstale", "aggregation"),
        "not fedavg or ffa",
        lambda job: job.has_stale_memory and not job.is_linear,
        "remembered changes are added to the fresh ones entry by entry, which this aggregation "
        "leaves no meaning; take fedavg or ffa",
    ),
    Combination(
        ("scheduling.fedstale", "trust"),
        "any",
        lambda job: (
            job.has_stale_memory and (job.trust.privacy is not None or job.trust.robust is not None)
        ),
        "what was refused a say, or hidden, in one round would be remembered in the next; drop one "
        "of the two",
    ),
    Combination(
        ("deployment", "scheduling.virtual_clock"),
        "any",
        lambda job: (
            job.is_deployed
            and job.scheduling is not None
            and job.scheduling.virtual_clock is not None
        ),
        "clients on machines of their own take real time; leave virtual_clock out",
    ),
    Combination(
        ("deployment", "scheduling"),
        "fedast",
        lambda job: job.is_deployed and job.has_several_adapters,
        "several adapters train in one process so far; run one job for each",
    ),
)
"""Every combination that is refused or needs something done; a refusal counts first."""


def conflict(job: Parts) -> str | None:
    """Return why a job's parts do not go together, or None."""
    for combination in COMBINATIONS:
        if combination.is_refused and combination.holds(job):
            return f"{' with '.join(combination.parts)}: {combination.reason}"
    return None


def transformations(job: Parts) -> list[str]:
    """Return what is done so that a job's parts go together, in the order of the table."""
    return [c.transformation for c in COMBINATIONS if c.transformation and c.holds(job)]


def table() -> str:
    """Return the table in Markdown, as ARCHITECTURE.md shows it."""
    rows = [
        f"| {' with '.join(f'`{part}`' for part in combination.parts)} | {combination.case} | "
        f"{combination.transformation or '**refused**'} | {combination.reason} |"
        for combination in COMBINATIONS
    ]
    return "\n".join(["| parts | case | verdict | why, or how |", "|---|---|---|---|", *rows, ""])
