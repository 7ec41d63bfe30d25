"""What a round costs at any load, from rounds measured at a few: pure.

The planner's curves are by rows. As many rows cost more in many sequences than in one, so curves are
made for each number of sequences, from rounds of as many and straight lines between.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from planner.drafting.candidate import DraftPlace
from planner.drafting.cost_curve import CostCurve

_MOST_ROWS = 1 << 20
_LEAST_SECONDS = 1e-9
"""Of a drafter too fast to time, such as a look-up."""


@dataclass(frozen=True, slots=True)
class MeasuredRound:
    """One step in which every sequence drafted alike."""

    num_sequences: int
    num_drafts: int
    """Drafted tokens of each sequence; 0 is plain decoding."""
    depth: int
    """Of them one behind the other."""
    verify_seconds: float
    """The step without drafting: scheduling, the target's forward, choosing, clearing up."""
    draft_seconds: float
    """Drafting for all sequences."""


@dataclass(frozen=True, slots=True)
class RoundCosts:
    """Measured rounds, and the costs they make up for any load."""

    rounds: tuple[MeasuredRound, ...]
    _by_size: dict[int, dict[int, MeasuredRound]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Order the rounds.

        Raises:
            ValueError: If plain decoding of one sequence was not measured, or sizes differ in what
                was.
        """
        by_size: dict[int, dict[int, MeasuredRound]] = {}
        for measured in self.rounds:
            by_size.setdefault(measured.num_sequences, {})[measured.num_drafts] = measured
        counts = by_size.get(1, {}).keys()
        if 0 not in counts or len(counts) < 2:
            raise ValueError(
                "no plain and no drafted round of one sequence among those measured; measure both"
            )
        if any(rounds.keys() != counts for rounds in by_size.values()):
            raise ValueError("sizes were measured at different numbers of drafts; use the same")
        object.__setattr__(self, "_by_size", dict(sorted(by_size.items())))

    @property
    def most_drafts(self) -> int:
        """Largest measured number of drafts."""
        return max(self._by_size[1])

    def target_curve(self, num_sequences: int, *, most_rows: int) -> CostCurve:
        """Return the seconds of a step without its drafting, by rows of so many sequences.

        More rows never cost less: what noise makes fall is averaged. Behind the last measured
        point the curve goes on as it rises on the whole, so that prompts may stand beside.
        """
        # Of more sequences than were measured, the rows are as those of the most that were.
        first = min(num_sequences, max(self._by_size))
        points = {1: self._by_size[1][0].verify_seconds}
        counts = sorted(self._by_size[1])
        times = [self._between(first, num_drafts, "verify_seconds") for num_drafts in counts]
        for num_drafts, seconds in zip(counts, _rising(times), strict=True):
            points[first * (num_drafts + 1)] = seconds
        last = max(points)
        if most_rows > last:
            slope = max(0.0, points[last] - points[first]) / max(1, last - first)
            points[most_rows] = points[last] + slope * (most_rows - last)
        return CostCurve(tuple(points), tuple(points.values()))

    def draft_place(self, num_sequences: int, *, device: str) -> DraftPlace:
        """Return what drafting for so many sequences costs: a part a round and a part a depth.

        The line through the measured depths by least squares, neither part below 0. The draft is
        there already: it needs no room.
        """
        depths = {d: r.depth for d, r in self._by_size[1].items() if d}
        seconds = {d: self._between(num_sequences, d, "draft_seconds") for d in depths}
        fixed, per_depth = _line([(depths[d], seconds[d]) for d in depths])
        step = max(per_depth, _LEAST_SECONDS)
        return DraftPlace(
            device=device,
            free_bytes=0.0,
            needed_bytes=0.0,
            step_seconds=CostCurve((1, _MOST_ROWS), (step, step)),
            round_seconds=fixed,
        )

    def _between(self, num_sequences: int, num_drafts: int, name: str) -> float:
        """Return a time on the line through the sizes around, or through the last two."""
        sizes = list(self._by_size)
        above = next((size for size in sizes if size >= num_sequences), sizes[-1])
        right = getattr(self._by_size[above][num_drafts], name)
        if above == num_sequences or len(sizes) == 1:
            return float(right)
        below = sizes[sizes.index(above) - 1]
        left = getattr(self._by_size[below][num_drafts], name)
        share = (num_sequences - below) / (above - below)
        return max(_LEAST_SECONDS, float(left + share * (right - left)))


def _rising(values: Sequence[float]) -> list[float]:
    """Return the nearest values that never fall, by least squares.

    Source: pool adjacent violators; Barlow et al. 1972, Statistical inference under order
    restrictions, section 1.2.
    """
    blocks: list[tuple[float, int]] = []  # mean, count
    for value in values:
        block = (value, 1)
        while blocks and blocks[-1][0] > block[0]:
            mean, count = blocks.pop()
            total = count + block[1]
            block = ((mean * count + block[0] * block[1]) / total, total)
        blocks.append(block)
    return [mean for mean, count in blocks for _ in range(count)]


def _line(points: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Return offset and slope of the line by least squares, neither below 0."""
    pairs = list(points)
    mean_x = sum(x for x, _ in pairs) / len(pairs)
    mean_y = sum(y for _, y in pairs) / len(pairs)
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    through_zero = sum(x * y for x, y in pairs) / sum(x * x for x, _ in pairs)
    if spread == 0:
        return 0.0, through_zero
    slope = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread
    offset = mean_y - slope * mean_x
    if slope < 0:
        return mean_y, 0.0
    return (offset, slope) if offset >= 0 else (0.0, through_zero)
