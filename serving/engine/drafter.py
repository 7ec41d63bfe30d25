"""What the engine asks of whoever guesses ahead."""

from typing import Protocol

from serving.engine.draft_tree import DraftTree
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence


class Drafter(Protocol):
    """Guesses the next tokens of sequences, whatever it guesses them from."""

    @property
    def context_tokens(self) -> int | None:
        """Longest sequence it drafts for; None where it has no limit."""

    @property
    def num_without_room(self) -> int:
        """Drafts not made because its memory was full, since start."""

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one tree for each scheduled sequence, empty where it has no guess.

        A tree has at most `num_drafts` nodes and is at most `most_depth` deep.
        """

    def settle(self, sequence: Sequence) -> None:
        """Take in a round's outcome: `sequence.tokens`, of which the target's cache holds most."""
