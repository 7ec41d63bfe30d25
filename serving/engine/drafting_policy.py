"""How much to draft in a step: what the engine asks, and the constant answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from serving.engine.draft_tree import DraftTree


class DraftSize(NamedTuple):
    """The most that a decoding sequence drafts in one round."""

    num_drafts: int
    """Drafted tokens; nodes of a tree."""
    depth: int
    """Drafted tokens one behind the other."""


class StepLoad(NamedTuple):
    """Who is in the next step."""

    num_decoding: int
    """Sequences that draft."""
    num_prompt_rows: int
    """Prompt tokens beside them."""


class DraftingPolicy(Protocol):
    """Chooses the size of drafts, and learns from what becomes of them."""

    num_plans: int
    """Times the size was planned anew since start."""
    num_changes: int
    """Plans that differed from the last one for the same load."""

    def size(self, load: StepLoad) -> DraftSize:
        """Return the size of the drafts of the next step."""

    def observe(self, tree: DraftTree, accepted: Sequence[int]) -> None:
        """Take in one verified draft and its accepted nodes, from the top down."""

    def end_step(self) -> None:
        """Take in that a step with decoding sequences ended, whether or not it drafted."""


@dataclass(slots=True)
class FixedDrafting:
    """The same size whatever the load."""

    fixed: DraftSize
    num_plans: int = 0
    num_changes: int = 0

    def size(self, load: StepLoad) -> DraftSize:
        """Return the size that was set."""
        return self.fixed

    def observe(self, tree: DraftTree, accepted: Sequence[int]) -> None:
        """Do nothing: nothing is learnt."""

    def end_step(self) -> None:
        """Do nothing: nothing is learnt."""
