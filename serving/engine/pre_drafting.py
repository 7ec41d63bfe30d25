"""Pre-drafting: while the target verifies, the idle draft device drafts behind the likeliest outcomes.

`propose` returns the round's drafts and leaves a thread at work on what may follow them: imagined
texts, each the known one, some of its drafted tokens and a guess at the target's own next token
(`outcomes.py`). The first `settle` stops it between two depths, so that what is late or wrong delays
the target by one forward of the draft at most. The next `propose` hands out the chain behind the text
that came true, drafts on where it was cut short, and drafts anew for everyone else. The target decides
by itself (`acceptance.py`): no token of any text depends on what was drafted, or when.

The thread works only between the end of `propose` and `settle`, `release` or `propose`, whichever
comes first, and has been waited for when they go on; memory is taken and given back by the caller's
thread alone. A text whose processors read its past (penalties, grammars, minimum lengths) is drafted
for in the usual way: its imagined texts would need a past of their own. Trees and look-ups are
not pre-drafted.

A round in which everyone's draft was ready is as long as its verification; one draft that was not
makes it as long as ever where the draft's forwards cost the same for one as for many. So nothing is
drafted ahead where it is unlikely that all come true.

Source: Liu et al. 2025, PEARL, arXiv 2408.11850; Shen et al. 2025, SpecBranch, arXiv 2506.01979;
McDanel 2024, AMUSD, arXiv 2410.17375, for draft and target on devices of their own.
"""

import logging
import math
import threading
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from torch import Tensor

from serving.engine.counters import PreDraftCounts
from serving.engine.draft_tree import DraftTree
from serving.engine.drafter import Drafter
from serving.engine.imagined import Ahead, Guess, joined, part_of
from serving.engine.outcomes import Outcome, OutcomeOdds
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence

logger = logging.getLogger(__name__)

MOST_OUTCOMES = 4
"""Imagined texts of one sequence."""
MOST_TEXTS = 64
"""Imagined texts of one round."""
LEAST_CHANCE = 0.02
"""Of an outcome that is worth a row of the draft; and that every sequence's draft will be ready."""
_READY_WEIGHT = 0.05


class ChainAhead(Drafter, Protocol):
    """A drafter of chains that can draft behind imagined texts.

    It sets `others` in its chains where `names_others`, and ends a draft between two depths where
    `is_stopped` says so.
    """

    names_others: bool
    is_stopped: Callable[[], bool]

    def imagine(self, sequence: Sequence, path: Items[int], num_drafts: int) -> Sequence | None:
        """Return the text as if `path` followed, with memory to draft; None where that lacks."""

    def prepare(self, imagined: Items[Sequence]) -> None:
        """Make imagined texts ready to draft behind; takes no memory, in whichever thread."""

    def go_on(self, imagined: Sequence, chain: Items[int]) -> None:
        """Take the chain just drafted behind an imagined text for part of it."""

    def adopt(self, sequence: Sequence, imagined: Sequence) -> None:
        """Take over what is worth keeping of an imagined text that came true."""


class PreDrafter:
    """A drafter that has the wrapped one draft ahead in a thread of its own."""

    def __init__(
        self,
        drafter: ChainAhead,
        *,
        synchronize: Callable[[], None] | None = None,
        most_outcomes: int = MOST_OUTCOMES,
        least_chance: float = LEAST_CHANCE,
    ) -> None:
        """Wrap a drafter, which from now on only this one may use.

        Args:
            drafter: Drafts on a device that idles while the target verifies.
            synchronize: Waits for the draft's device; given where its work is queued, so that the
                thread looks up between two depths. None: calls return when they are done.
            most_outcomes: Imagined texts of a sequence at most.
            least_chance: Below it an outcome is not drafted behind, and none where it is less likely
                that all sequences' drafts will be ready.
        """
        self.drafter = drafter
        self.counts = PreDraftCounts()
        self.ready_fraction = 0.0
        """Average share of drafts that were ready when they were wanted."""
        self._synchronize = synchronize
        self._most_outcomes, self._least_chance = most_outcomes, least_chance
        self._odds = OutcomeOdds()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="pre-draft")
        self._stopping = threading.Event()
        self._guesses: list[Guess] = []
        self._work: Future[list[DraftTree]] | None = None
        self._is_ahead = False
        self.is_on = True
        """Whether drafts are made ahead; no longer after a failure."""
        drafter.names_others = True
        drafter.is_stopped = self._is_stopped

    @property
    def context_tokens(self) -> int | None:
        """Longest sequence it drafts for."""
        return self.drafter.context_tokens

    @property
    def num_without_room(self) -> int:
        """Drafts not made because memory was full; those ahead are counted apart."""
        return self.drafter.num_without_room

    @property
    def reads_features(self) -> bool:
        """Whether `settle` wants the target's features."""
        return self.drafter.reads_features

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence, and go on drafting behind them."""
        self.finish()
        ready = [self._take(part) for part in step]
        trees = self._completed(step, ready)
        if self.is_on:
            self._begin(step, trees)
        return trees

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        """Stop drafting ahead, then let the drafter settle."""
        if sequence.ahead is not None:
            self.finish()
        self.drafter.settle(sequence, features_NE)

    def finish(self) -> None:
        """Stop the thread between two depths, and wait for that."""
        if self._work is None:
            return
        start = time.perf_counter()
        self._stopping.set()
        try:
            chains = self._work.result()
        except Exception:
            # The edge of the thread: drafts are no part of the answer, so the engine goes on.
            logger.exception("pre-drafting failed; drafts are no longer made ahead")
            self.counts.failures += 1
            self.is_on = False
            chains = [DraftTree() for _ in self._guesses]
        self._work = None
        self._is_ahead = False
        self._stopping.clear()
        for guess, chain in zip(self._guesses, chains, strict=True):
            guess.chain = chain
            self.counts.tokens += len(chain)
        wanted = [min(guess.part.num_drafts, guess.part.most_depth) for guess in self._guesses]
        self.counts.late += any(
            len(chain) < count for chain, count in zip(chains, wanted, strict=True)
        )
        self._guesses = []
        self.counts.waited_seconds += time.perf_counter() - start

    @property
    def is_working(self) -> bool:
        """Whether the thread drafts."""
        return self._work is not None and not self._work.done()

    def wait(self) -> None:
        """Wait until everything ahead is drafted, without stopping it."""
        if self._work is not None:
            self._work.exception()

    def close(self) -> None:
        """End the thread."""
        self.finish()
        self._executor.shutdown()

    def _is_stopped(self) -> bool:
        if self._is_ahead and self._synchronize is not None:
            self._synchronize()
        return self._stopping.is_set()

    def _take(self, part: Scheduled) -> Guess | None:
        """Return the guess that came true where it is of use; free all others."""
        sequence, ahead = part.sequence, part.sequence.ahead
        sequence.ahead = None
        is_wanted = min(part.num_drafts, part.most_depth) > 0
        if ahead is None:
            # Nothing was drafted ahead, so nothing is ready either: planning must see that.
            self.ready_fraction -= _READY_WEIGHT * self.ready_fraction * is_wanted
            return None
        assert isinstance(ahead, Ahead), "an engine has one drafter"
        emitted = tuple(sequence.tokens[ahead.num_known :])
        self._odds.observe(ahead.verified, emitted, ahead.next_token())
        found = ahead.came_true(emitted)
        if not is_wanted:
            found = None
        else:
            self.counts.asked += 1
            self.counts.used += found is not None
            self.ready_fraction += _READY_WEIGHT * ((found is not None) - self.ready_fraction)
        for guess in ahead.guesses:
            if guess is not found:
                guess.text.release()
        return found

    def _completed(self, step: list[Scheduled], ready: list[Guess | None]) -> list[DraftTree]:
        """Draft for who has nothing ready, and behind what was cut short; adopt what is ready."""
        chains = [DraftTree() for _ in step]
        missing: dict[int, Scheduled] = {}
        for index, (part, guess) in enumerate(zip(step, ready, strict=True)):
            if guess is None:
                missing[index] = part
                continue
            wanted = min(part.num_drafts, part.most_depth)
            chains[index] = part_of(guess.chain, guess.skipped, guess.skipped + wanted)
            self.counts.used_tokens += len(chains[index])
            lacking = wanted - len(chains[index])
            if lacking:
                self.drafter.go_on(guess.text, guess.chain.tokens)
                missing[index] = Scheduled(guess.text, 1, lacking, lacking)
        for index, more in zip(
            missing, self.drafter.propose(list(missing.values())) if missing else (), strict=True
        ):
            first = chains[index]
            # Chains of their own go out as they are: what drafts without a guess may be a tree.
            chains[index] = joined(first, more) if first.tokens else more
        for part, guess in zip(step, ready, strict=True):
            if guess is not None:
                self.drafter.adopt(part.sequence, guess.text)
                part.sequence.take_races(guess.text)
                guess.text.release()
        return chains

    def _begin(self, step: list[Scheduled], trees: list[DraftTree]) -> None:
        """Imagine the likeliest outcomes and leave them to the thread."""
        wanted: list[tuple[Scheduled, DraftTree, list[Outcome]]] = []
        chance = 1.0
        for part, tree in zip(step, trees, strict=True):
            if tree.tokens and part.sequence.history is not None:
                chance = 0.0  # it will be drafted for in any case
            elif tree.tokens:
                outcomes = self._odds.outcomes(tree)[: self._most_outcomes]
                likely = [each for each in outcomes if each.chance >= self._least_chance]
                wanted.append((part, tree, likely))
        chance *= math.prod(sum(each.chance for each in outcomes) for _, _, outcomes in wanted)
        if chance < self._least_chance:
            return
        for part, tree, outcomes in wanted:
            guesses = [self._guess(part, tree, outcome) for outcome in outcomes]
            made = [guess for guess in guesses if guess is not None]
            if made:
                part.sequence.ahead = Ahead(self.finish, len(part.sequence.tokens), tree, made)
                self._guesses += made
        if self._guesses:
            self.counts.texts += len(self._guesses)
            self._is_ahead = True
            self._work = self._executor.submit(self._draft, list(self._guesses))

    def _guess(self, part: Scheduled, tree: DraftTree, outcome: Outcome) -> Guess | None:
        """Imagine an outcome; None where nothing follows it, or memory lacks."""
        sequence = part.sequence
        path = tree.tokens[: outcome.num_accepted]
        skipped = 1
        if outcome.token is not None:
            path, skipped = (*path, outcome.token), 0
        num_drafts = min(part.num_drafts, part.size_depth, sequence.num_remaining - len(path) - 1)
        is_full = len(self._guesses) >= MOST_TEXTS
        if is_full or num_drafts < 1 or not sequence.end_ids.isdisjoint(path):
            return None
        text = self.drafter.imagine(sequence, path, num_drafts + skipped)
        if text is None:
            self.counts.without_room += 1
            return None
        num_drafts += skipped
        return Guess(outcome, Scheduled(text, 1, num_drafts, num_drafts))

    def _draft(self, guesses: list[Guess]) -> list[DraftTree]:
        """Draft behind all imagined texts side by side, in the thread."""
        self.drafter.prepare([guess.text for guess in guesses])
        return self.drafter.propose([guess.part for guess in guesses])
