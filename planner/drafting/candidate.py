"""One way to draft, or not to: what a round of it emits, costs, and gains."""

import math
from dataclasses import dataclass

from planner.drafting.cost_curve import CostCurve
from planner.drafting.draft_tree import DraftTree


@dataclass(frozen=True, slots=True)
class DraftPlace:
    """A device the draft may run on."""

    device: str
    """Its name."""
    free_bytes: float
    """Memory left there, the target's share taken off."""
    needed_bytes: float
    """What the draft takes: weights, and keys and values of every request."""
    step_seconds: CostCurve
    """One forward of the draft by rows, launches included."""
    round_seconds: float = 0.0
    """Copies to the target's device and back, with their waits, once a round."""
    is_apart: bool = False
    """It computes while the target computes: they share no cores."""

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: If a size or a time is negative or no number.
        """
        for name in ("free_bytes", "needed_bytes", "round_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} of {self.device} is {value}; give a number from 0")

    @property
    def fits(self) -> bool:
        """Whether there is room for the draft."""
        return self.needed_bytes <= self.free_bytes

    def draft_seconds(self, tree: DraftTree, *, num_requests: int) -> float:
        """Return the seconds to draft the tree for every request: a forward of the beam a depth."""
        step = self.step_seconds.seconds_at(num_requests * tree.top_k)
        return self.round_seconds + tree.depth * step


@dataclass(frozen=True, slots=True)
class Load:
    """What shares a step of the target."""

    num_requests: int = 1
    """Requests that draft alike."""
    other_rows: int = 0
    """Rows beside theirs, such as prompts' or of requests that do not draft; each one token's worth."""
    drafted_fraction: float = 1.0
    """Share of what drafting adds to a step that it costs on average; below 1 where the drafter does
    not find something for every request in every round."""

    def __post_init__(self) -> None:
        """Check the counts.

        Raises:
            ValueError: If there is no request, rows are negative, or the share is none.
        """
        if self.num_requests < 1 or self.other_rows < 0:
            raise ValueError(
                f"{self.num_requests} requests and {self.other_rows} other rows; "
                "give at least 1 request and 0 rows"
            )
        if not 0 <= self.drafted_fraction <= 1:
            raise ValueError(
                f"drafted_fraction is {self.drafted_fraction}; give a share from 0 to 1"
            )

    def rows(self, tree_rows: int) -> int:
        """Return the rows of a step in which each request has so many."""
        return self.other_rows + self.num_requests * tree_rows

    def tokens(self, tokens_per_round: float) -> float:
        """Return what a step is worth in which each request emits so many tokens."""
        return self.other_rows + self.num_requests * tokens_per_round

    @property
    def half(self) -> "Load":
        """The larger of two halves of the batch."""
        return Load(-(-self.num_requests // 2), -(-self.other_rows // 2), self.drafted_fraction)


@dataclass(frozen=True, slots=True)
class Overlap:
    """How drafting hides behind verifying, where the draft's device is apart."""

    half_batches: bool = False
    """One half of the requests is drafted while the other is verified."""
    ready_fraction: float = 0.0
    """Pre-drafting: chance that a request's draft is ready when its verification lands."""

    def __post_init__(self) -> None:
        """Check the chance.

        Raises:
            ValueError: If it is none.
        """
        if not 0 <= self.ready_fraction <= 1:
            raise ValueError(f"ready_fraction is {self.ready_fraction}; give a chance from 0 to 1")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way, with its expectations."""

    device: str | None
    """Where the draft runs; nothing: no speculation."""
    rows: int
    """Rows of each request to verify, the root among them; 1: no speculation."""
    depth: int
    """Drafted tokens of the longest path."""
    top_k: int
    """Beam of the draft; 1: a chain."""
    tokens_per_round: float
    """Expected tokens of each request: tau."""
    verify_seconds: float
    """One forward of the target over the whole step."""
    draft_seconds: float
    """Drafting for the whole step, copies included."""
    round_seconds: float
    """A round of every request; below the sum of both where they overlap."""
    speed_up: float
    """Tokens a second over those without speculation, under the same load."""


def without_speculation(target: CostCurve, load: Load) -> Candidate:
    """Return plain decoding: one row, one token."""
    seconds = target.seconds_at(load.rows(1))
    return Candidate(None, 1, 0, 0, 1.0, seconds, 0.0, seconds, 1.0)


def speculation(
    place: DraftPlace, tree: DraftTree, target: CostCurve, load: Load, overlap: Overlap
) -> Candidate:
    """Return what drafting such trees at a place is expected to give.

    speed-up = (B + S tau) / round * c(B + S) / (B + S), for S requests and B other rows. With one
    request alone that is tau / (c(M) / c(1) + draft / c(1)). Under load everybody waits for what
    the tree adds, c(B + S M) - c(B + S) + draft: it gains exactly where its extra tokens per such
    second exceed the rate the step has without it. Where the drafter finds something for a part of
    the requests alone, acceptance says so to tau, and `drafted_fraction` to the round.

    Raises:
        ValueError: If a curve does not reach so many rows.

    Source: Leviathan, Kalman and Matias (2023), theorem 3.8, with measured costs of verification.
    """
    verify = target.seconds_at(load.rows(tree.rows))
    draft = place.draft_seconds(tree, num_requests=load.num_requests)
    seconds = verify + draft
    if place.is_apart:
        seconds = _overlapped_seconds(place, tree, target, load, overlap)
    plain = without_speculation(target, load)
    seconds = plain.round_seconds + load.drafted_fraction * (seconds - plain.round_seconds)
    gain = load.tokens(tree.tokens_per_round) / load.tokens(1.0)
    return Candidate(
        device=place.device,
        rows=tree.rows,
        depth=tree.depth,
        top_k=tree.top_k,
        tokens_per_round=tree.tokens_per_round,
        verify_seconds=verify,
        draft_seconds=draft,
        round_seconds=seconds,
        speed_up=gain * plain.round_seconds / seconds,
    )


def _overlapped_seconds(
    place: DraftPlace, tree: DraftTree, target: CostCurve, load: Load, overlap: Overlap
) -> float:
    """Return the shortest round: one after the other, pre-drafted, or in half-batches.

    Pre-drafting needs every request's guess to hold; half-batches verify twice, so they pay only
    where half the rows cost well under the whole.
    """
    verify = target.seconds_at(load.rows(tree.rows))
    draft = place.draft_seconds(tree, num_requests=load.num_requests)
    ready = overlap.ready_fraction**load.num_requests
    seconds = verify + draft - ready * min(verify, draft)
    if overlap.half_batches and load.num_requests > 1:
        half = load.half
        half_verify = target.seconds_at(half.rows(tree.rows))
        half_draft = place.draft_seconds(tree, num_requests=half.num_requests)
        seconds = min(seconds, 2 * max(half_verify, half_draft))
    return seconds
