"""What the engine has done since start, as `/metrics` states it."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class EngineCounters:
    """Totals since start, in tokens unless named otherwise."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)
    """Drafted tokens accepted by their depth in the draft, the first behind the known text."""
    draft_seconds: float = field(default=0.0, compare=False)
    """Time the engine's steps spent on drafting; the target's verification is not in it."""
    failed_requests: int = 0
    """Requests that ended because no token could be chosen, or their grammar became too complex."""

    def count_draft(self, num_drafted: int, num_accepted: int) -> None:
        """Add a drafting round; of a tree, the accepted tokens are one path."""
        self.drafts += 1
        self.draft_tokens += num_drafted
        self.accepted_tokens += num_accepted
        positions = self.accepted_per_position
        positions += [0] * (num_accepted - len(positions))
        for position in range(num_accepted):
            positions[position] += 1

    @property
    def acceptance_length(self) -> float:
        """Mean tokens a drafting round emits; 1 where nothing was drafted."""
        return 1 + self.accepted_tokens / self.drafts if self.drafts else 1.0


@dataclass(slots=True)
class PreDraftCounts:
    """Totals since start."""

    texts: int = 0
    """Imagined texts that were drafted behind."""
    tokens: int = 0
    """Tokens drafted behind them."""
    asked: int = 0
    """Drafts that might have been ready."""
    used: int = 0
    """Drafts that were, whole or in part."""
    used_tokens: int = 0
    """Tokens of these, handed out."""
    late: int = 0
    """Rounds whose verification ended first."""
    without_room: int = 0
    """Imagined texts for which memory lacked."""
    failures: int = 0
    """Errors in the thread; the first ends pre-drafting."""
    waited_seconds: float = 0.0
    """Time the engine waited for the thread to stop."""

    @property
    def wasted_tokens(self) -> int:
        """Tokens drafted ahead that nobody verified."""
        return self.tokens - self.used_tokens
