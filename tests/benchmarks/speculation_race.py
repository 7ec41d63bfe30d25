"""Runs entries against each other in turn, and turns their seconds into rates.

Every entry runs once over a block of prompts before any runs over the next, so that a noisy machine
touches all alike; figures are medians over repetitions of what one repetition gave.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.rival_environments import RivalError
from benchmarks.speculation_contestants import Contestant, Measured

STREAMS = 8
BLOCK_PROMPTS = 8
WARM_UP_TOKENS = 8
Subset = Callable[[int], bool]
"""Whether the prompt of this number counts."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the table: a contestant in one of its modes."""

    label: str
    contestant: Contestant
    mode: str


@dataclass(slots=True)
class Result:
    """What an entry did in all repetitions."""

    seconds: dict[int, list[float]] = field(default_factory=dict)
    """By prompt, one for each repetition; of concurrent prompts an equal part each."""
    texts: dict[int, list[int]] = field(default_factory=dict)
    drafts: int = 0
    drafted: int = 0
    accepted: list[int] = field(default_factory=list)
    draft_seconds: float = 0.0
    """Wall time of drafting alone, of all passes; 0 where the contestant does not say."""
    peak_bytes: int = 0
    own_bytes: int = 0
    """Resident memory at the end without files that are only mapped, which the system can drop."""
    failure: str | None = None

    def add(self, numbers: Sequence[int], measured: Measured) -> None:
        """Take in one pass over prompts."""
        each = measured.seconds
        if len(each) < len(numbers):
            each = [each[0] / len(numbers)] * len(numbers)
        for number, seconds, tokens in zip(numbers, each, measured.tokens, strict=True):
            self.seconds.setdefault(number, []).append(seconds)
            self.texts[number] = tokens
        self.drafts += measured.drafts
        self.drafted += measured.drafted
        self.draft_seconds += measured.draft_seconds
        longer = len(measured.accepted_per_position) - len(self.accepted)
        self.accepted += [0] * longer
        for place, count in enumerate(measured.accepted_per_position):
            self.accepted[place] += count
        self.peak_bytes = max(self.peak_bytes, measured.peak_bytes)
        self.own_bytes = measured.own_bytes

    def rates(self, subset: Subset) -> list[float]:
        """Return tokens a second of each repetition, over the prompts that count."""
        counted = [number for number in self.seconds if subset(number)]
        if self.failure is not None or not counted:
            return []
        num_tokens = sum(len(self.texts[number]) for number in counted)
        repetitions = zip(*(self.seconds[number] for number in counted), strict=True)
        return [num_tokens / sum(seconds) for seconds in repetitions]

    def rate(self, subset: Subset) -> float | None:
        """Return the median of the rates."""
        return statistics.median(self.rates(subset)) if self.rates(subset) else None

    @property
    def tokens_per_round(self) -> float | None:
        """Tokens a drafting round emits; None where the contestant does not say."""
        return 1 + sum(self.accepted) / self.drafts if self.drafts else None

    @property
    def accepted_per_draft_second(self) -> float | None:
        """Drafted tokens accepted in a second of drafting; None where it was not timed."""
        return sum(self.accepted) / self.draft_seconds if self.draft_seconds else None

    @property
    def acceptance(self) -> list[float]:
        """Share of drafting rounds in which each position was accepted."""
        return [count / self.drafts for count in self.accepted]


def ratio(ours: Result | None, theirs: Result | None, subset: Subset) -> float | None:
    """Return the median over repetitions of one rate over another; None where one is missing."""
    if ours is None or theirs is None:
        return None
    pairs = list(zip(ours.rates(subset), theirs.rates(subset), strict=False))
    return statistics.median(a / b for a, b in pairs) if pairs else None


def equal_fraction(result: Result, reference: Result) -> float | None:
    """Return how much of the reference's texts stands in the result's, each up to its first difference."""
    shared = total = 0
    for number in result.texts.keys() & reference.texts.keys():
        ours, theirs = result.texts[number], reference.texts[number]
        same = (a == b for a, b in zip(ours, theirs, strict=True))
        shared += next((place for place, is_same in enumerate(same) if not is_same), len(ours))
        total += len(theirs)
    return shared / total if total else None


@dataclass(slots=True)
class Progress:
    """Prints how far a race is, and when it will end."""

    title: str
    total: int
    done: int = 0
    start: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)

    def advance(self) -> None:
        """Count one pass; print at most every ten seconds."""
        self.done += 1
        now = time.monotonic()
        if now - self.shown < 10 and self.done < self.total:
            return
        self.shown = now
        left = (now - self.start) / self.done * (self.total - self.done)
        print(f"{self.title}: {self.done}/{self.total}, {left / 60:.0f} min left", flush=True)


def race(
    entries: Sequence[Entry],
    blocks: Sequence[Sequence[int]],
    prompts: Sequence[list[int]],
    *,
    title: str,
    repetitions: int,
    new_tokens: int,
    temperature: float = 0.0,
    is_concurrent: bool = False,
    clock: str = "wall",
) -> dict[str, Result]:
    """Run every entry over every block in turn, `repetitions` times.

    Args:
        entries: Who runs; one that fails gets its reason as result, the others go on.
        blocks: Numbers of the prompts that are run together.
        prompts: Token ids.
        title: What the progress lines call it.
        repetitions: Passes over all blocks.
        new_tokens: Tokens of each text.
        temperature: 0 is greedy.
        is_concurrent: Whether a block's prompts are generated at once.
        clock: `wall`, or `processor` for the time of all threads, which leaves out other programs.

    Returns:
        Results by label.
    """
    results = {entry.label: Result() for entry in entries}
    progress = Progress(title, len(entries) * (len(blocks) * repetitions + 1))

    def run(entry: Entry, numbers: Sequence[int], num_tokens: int) -> Measured | None:
        result = results[entry.label]
        progress.advance()
        if result.failure is not None:
            return None
        try:
            return entry.contestant.measure(
                [prompts[number] for number in numbers],
                mode=entry.mode,
                new_tokens=num_tokens,
                temperature=temperature,
                is_concurrent=is_concurrent,
                clock=clock,
            )
        except RivalError as error:
            result.failure = str(error)
            print(f"{entry.label}: {error}", flush=True)
            return None

    for entry in entries:
        run(entry, blocks[0], WARM_UP_TOKENS)
    for _ in range(repetitions):
        for numbers in blocks:
            for entry in entries:
                if measured := run(entry, numbers, new_tokens):
                    results[entry.label].add(numbers, measured)
    return results


def blocks_of(numbers: Sequence[int], size: int = BLOCK_PROMPTS) -> Iterator[list[int]]:
    """Yield whole blocks, and at the end what is left."""
    for start in range(0, len(numbers), size):
        yield list(numbers[start : start + size])
