"""Start-up calibration of drafting: whole rounds of the engine, timed with the drafter it will use.

The models' forwards alone would not do: what a round adds in Python, in choosing and in clearing up
is paid for every sequence, and decides at eight of them whether drafting pays.
"""

import logging
import time
from collections.abc import Callable, Iterator

from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.drafter import Drafter
from serving.engine.drafting_policy import DraftSize, FixedDrafting
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model import TargetModel
from serving.engine.pages import PAGE_TOKENS
from serving.engine.round_costs import MeasuredRound, RoundCosts
from serving.engine.sampling import SamplingParams
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import GenerationOutput, GenerationRequest, Sequence

logger = logging.getLogger(__name__)

DEFAULT_SECONDS = 4.0
MOST_REPEATS = 7
_SEQUENCE_COUNTS = (1, 2, 4, 8, 16)
_DRAFT_COUNTS = (1, 2, 4, 8, 16, 32)
_PROMPT_TOKENS = 2 * PAGE_TOKENS + 1
_PERIOD = 8
"""The prompt repeats, so that a drafter that looks up the text's past finds something."""


def calibrate(
    target: TargetModel,
    drafter: Drafter,
    *,
    most: DraftSize,
    max_sequences: int,
    kv_bytes: int,
    most_seconds: float = DEFAULT_SECONDS,
    clock: Callable[[], float] = time.perf_counter,
) -> RoundCosts:
    """Time rounds of 1, 2, 4 ... sequences, plain and with drafts of several sizes.

    Args:
        target: As it will be served.
        drafter: As it will draft; its counts of failures move with what happens here.
        most: Largest draft.
        max_sequences: Sequences that will run at once.
        kv_bytes: Most memory for keys and values, given back at the end.
        most_seconds: No pass over the sizes starts after this, and more sequences get equal shares
            of what fewer left over; one pass with one sequence always completes.
        clock: Seconds, for tests.

    Returns:
        The least of the passes, since what else runs on the machine only adds; logged in one line.
    """
    sizes = [DraftSize(0, 0), *_sizes(most)]
    counts = [count for count in _SEQUENCE_COUNTS if count <= max_sequences]
    start = clock()
    crowd = _Crowd(target, drafter, kv_bytes=kv_bytes, most=most, clock=clock)
    rounds: list[MeasuredRound] = []
    num_passes = 0
    try:
        for index, count in enumerate(counts):
            left = most_seconds - (clock() - start)
            if rounds and (left <= 0 or not crowd.fits(count)):
                break
            level_end = clock() + left / (len(counts) - index)
            crowd.grow_to(count)
            passes: list[list[tuple[float, float]]] = []
            while not passes or (len(passes) <= MOST_REPEATS and clock() < level_end):
                passes.append([crowd.timed_step(size) for size in sizes])
            num_passes += len(passes)
            rounds += _least(count, sizes, passes)
    finally:
        crowd.close()
    logger.info(
        "calibrated drafting sequences=%s drafts=%s passes=%d seconds=%.1f round_milliseconds=%s",
        ",".join(str(n) for n in sorted({r.num_sequences for r in rounds})),
        ",".join(str(size.num_drafts) for size in sizes),
        num_passes,
        clock() - start,
        ";".join(
            f"{r.num_sequences}x{r.num_drafts}:{1e3 * r.draft_seconds:.2f}+{1e3 * r.verify_seconds:.2f}"
            for r in rounds
        ),
    )
    return RoundCosts(tuple(rounds))


def _sizes(most: DraftSize) -> Iterator[DraftSize]:
    """Yield sizes up to the largest; no deeper than they have tokens."""
    for count in [*(count for count in _DRAFT_COUNTS if count < most.num_drafts), most.num_drafts]:
        yield DraftSize(count, min(count, most.depth))


def _least(
    num_sequences: int, sizes: list[DraftSize], passes: list[list[tuple[float, float]]]
) -> list[MeasuredRound]:
    return [
        MeasuredRound(
            num_sequences,
            size.num_drafts,
            size.depth,
            verify_seconds=min(times[i][0] for times in passes),
            draft_seconds=min(times[i][1] for times in passes),
        )
        for i, size in enumerate(sizes)
    ]


class _TimedDrafter:
    """Times the real drafter, and fills what it left short: verification is timed at full size."""

    def __init__(self, drafter: Drafter, clock: Callable[[], float]) -> None:
        self._drafter = drafter
        self._clock = clock
        self.seconds = 0.0

    @property
    def context_tokens(self) -> int | None:
        return self._drafter.context_tokens

    @property
    def num_without_room(self) -> int:
        return self._drafter.num_without_room

    @property
    def reads_features(self) -> bool:
        return self._drafter.reads_features

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        start = self._clock()
        trees = self._drafter.propose(step)
        self.seconds = self._clock() - start
        return [
            tree
            if len(tree) == part.num_drafts
            else DraftTree.chain([0] * min(part.num_drafts, part.sequence.num_remaining - 1))
            for part, tree in zip(step, trees, strict=True)
        ]

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        self._drafter.settle(sequence, features_NE)


class _Crowd:
    """An engine kept full of sequences that decode."""

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter,
        *,
        kv_bytes: int,
        most: DraftSize,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._drafter = _TimedDrafter(drafter, clock)
        self._drafting = FixedDrafting(DraftSize(0, 0))
        most_rows = max(_SEQUENCE_COUNTS) * 4 * PAGE_TOKENS
        self._engine = Engine(
            target,
            self._drafter,
            num_draft_tokens=most.num_drafts,
            limits=EngineLimits(
                kv_bytes=min(kv_bytes, most_rows * target.kv_bytes_per_token),
                max_sequences=max(_SEQUENCE_COUNTS),
                max_waiting=max(_SEQUENCE_COUNTS),
            ),
            eos_ids=frozenset(),
            drafting=self._drafting,
        )
        context = self._engine.context_tokens
        # Room for a few rounds behind the prompt, in whatever context there is.
        self._prompt = tuple(i % _PERIOD for i in range(min(_PROMPT_TOKENS, context // 2)))
        self._most_tokens = min(2 * PAGE_TOKENS, context - len(self._prompt))
        self._least_tokens = min(most.depth + 2, self._most_tokens // 2)
        self._left: dict[str, int] = {}
        self._num_added = 0
        self._count = 0

    def fits(self, count: int) -> bool:
        """Whether so many sequences find room: two shared pages, three of each one's own."""
        return 2 + 3 * count <= self._engine.kv_pages.num_pages

    def grow_to(self, count: int) -> None:
        """Run so many sequences from now on."""
        self._count = count
        self._fill()

    def timed_step(self, size: DraftSize) -> tuple[float, float]:
        """Return the seconds of a step beside its drafting, and of its drafting."""
        self._fill()
        self._drafting.fixed = size
        self._drafter.seconds = 0.0
        start = self._clock()
        outputs = self._engine.step()
        seconds = self._clock() - start
        self._count_off(outputs)
        return seconds - self._drafter.seconds, self._drafter.seconds

    def close(self) -> None:
        """Give back what the drafter keeps for the sequences."""
        for name in self._left:
            self._engine.abort(name)
        self._left.clear()

    def _fill(self) -> None:
        """Replace who is near its end, and step without drafts until all decode."""
        self._drafting.fixed = DraftSize(0, 0)
        for name in [name for name, left in self._left.items() if left < self._least_tokens]:
            self._engine.abort(name)
            del self._left[name]
        while len(self._left) < self._count:
            self._num_added += 1
            name = str(self._num_added)
            params = SamplingParams(temperature=0, max_tokens=self._most_tokens, ignore_eos=True)
            self._engine.add(GenerationRequest(name, self._prompt, params, seed=0))
            self._left[name] = self._most_tokens
        while self._engine.num_decoding < self._count:
            self._count_off(self._engine.step())

    def _count_off(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            self._left[output.request_id] -= len(output.tokens)
