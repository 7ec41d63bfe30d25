"""What the engine asks of whoever guesses ahead."""

from typing import Protocol

from torch import Tensor

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

    @property
    def reads_features(self) -> bool:
        """Whether `settle` wants the target's features; they are not collected otherwise."""

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one tree for each scheduled sequence, empty where it has no guess.

        A tree has at most `num_drafts` nodes and is at most `most_depth` deep.
        """

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        """Take in what a step made final: a chunk of the prompt, or a round's accepted tokens.

        Args:
            sequence: Its target's cache holds the rows that are final by now.
            features_NE: The target's last hidden states, behind the final norm, of the rows that
                became final in this step; on the target's device, and None unless
                `reads_features`. Shape: (rows, E).
        """
