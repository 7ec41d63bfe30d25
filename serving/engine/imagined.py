"""Texts as they will be if a guess comes true, and the chains drafted behind them."""

from collections.abc import Callable
from dataclasses import dataclass, field

from serving.engine.draft_tree import DraftTree
from serving.engine.outcomes import Outcome
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence


@dataclass(slots=True, eq=False)
class Guess:
    """An imagined text, and the chain behind it once that is drafted."""

    outcome: Outcome
    part: Scheduled
    chain: DraftTree = field(default_factory=DraftTree)

    @property
    def text(self) -> Sequence:
        """The imagined text."""
        return self.part.sequence

    @property
    def skipped(self) -> int:
        """Tokens at the chain's beginning that stand in place of the target's own."""
        return int(self.outcome.token is None)


@dataclass(slots=True, eq=False)
class Ahead:
    """What is drafted ahead of one sequence."""

    finish: Callable[[], None]
    """Waits for who drafts."""
    num_known: int
    verified: DraftTree
    guesses: list[Guess]

    def release(self) -> None:
        """Wait for the thread, then free the imagined texts."""
        self.finish()
        for guess in self.guesses:
            guess.text.release()

    def next_token(self) -> int | None:
        """Return what the draft says behind the whole verified chain, where it got there."""
        chains = [guess.chain.tokens for guess in self.guesses if guess.outcome.token is None]
        return chains[0][0] if chains and chains[0] else None

    def came_true(self, emitted: tuple[int, ...]) -> Guess | None:
        """Return the guess that has a token to offer behind what was emitted."""
        for guess in self.guesses:
            place = guess.outcome.num_accepted
            token = self.next_token() if guess.skipped else guess.outcome.token
            expected = (*self.verified.tokens[:place], token)
            if emitted == expected and len(guess.chain) > guess.skipped:
                return guess
        return None


def part_of(chain: DraftTree, start: int, stop: int) -> DraftTree:
    """Return a piece of a chain as one of its own."""
    return DraftTree.chain(chain.tokens[start:stop], chain.others[start:stop])


def joined(first: DraftTree, more: DraftTree) -> DraftTree:
    """Return one chain behind another as one."""
    return DraftTree.chain(first.tokens + more.tokens, first.others + more.others)
