"""A run as a curve of loss against bytes, and what is read off it; finished runs kept as files."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Point:
    """After a round; round 0 is the base model, and nothing sent.

    Attributes:
        round: Counts from 1.
        losses: Held-out loss of the server's adapter by client, nats a token.
        values_bytes: Sent so far in both directions, values.
        index_bytes: Likewise, their positions.
        header_bytes: Likewise, all else.
        aggregation_error: Relative, of this round.
        rank: Of the adapter.
    """

    round: int
    losses: Mapping[str, float]
    values_bytes: int = 0
    index_bytes: int = 0
    header_bytes: int = 0
    aggregation_error: float | None = None
    rank: int | None = None

    @property
    def num_bytes(self) -> int:
        """All bytes so far."""
        return self.values_bytes + self.index_bytes + self.header_bytes

    @property
    def loss(self) -> float:
        """Mean over the clients."""
        return sum(self.losses.values()) / len(self.losses)


@dataclass(frozen=True, slots=True)
class Run:
    """One arm with one seed.

    Attributes:
        arm: Its name.
        seed: Of adapter and batches.
        learning_rate: Of the clients.
        points: From round 0 on.
        seconds: Wall time.
    """

    arm: str
    seed: int
    learning_rate: float
    points: Sequence[Point]
    seconds: float

    @property
    def improvement(self) -> float:
        """Of the last round over the base model, nats."""
        return self.points[0].loss - self.points[-1].loss

    def target(self, fraction: float) -> float:
        """Return the loss at a fraction of this run's whole improvement."""
        return self.points[0].loss - fraction * self.improvement

    def reached(self, loss: float) -> Point | None:
        """Return the first round whose loss is no higher, or None."""
        return next((point for point in self.points if point.loss <= loss), None)

    def at_bytes(self, num_bytes: int) -> Point:
        """Return the last round that no more was sent for."""
        return [point for point in self.points if point.num_bytes <= num_bytes][-1]


def ratios(dense: Sequence[Run], arm: Sequence[Run], fraction: float) -> list[float | None]:
    """Return by how many times fewer bytes each of an arm's runs reaches its dense run's target.

    Args:
        dense: The baseline's runs.
        arm: An arm's runs of the same seeds, in the same order; the last may be left out.
        fraction: Of the dense run's improvement.

    Returns:
        One for each seed, None where the target was missed.
    """
    out: list[float | None] = []
    for baseline, run in zip(dense, arm, strict=False):
        target = baseline.target(fraction)
        theirs, ours = baseline.reached(target), run.reached(target)
        out.append(None if ours is None or theirs is None else theirs.num_bytes / ours.num_bytes)
    return out


def middle(values: Sequence[float | None]) -> float | None:
    """Return the median, a miss counted as the lowest ratio; None if the median is a miss."""
    value = median(-1.0 if one is None else one for one in values)
    return value if value > 0 else None


class Store:
    """Finished runs in a folder, so that a benchmark that was killed goes on."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        """Keep runs of other settings apart, in folders of their own."""
        text = json.dumps(settings, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:12]
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "settings.json").write_text(json.dumps(settings, indent=1))

    def run(self, name: str, make: Callable[[], Run]) -> Run:
        """Return the run kept under a name, or make and keep it."""
        path = self.folder / f"{name}.json"
        if path.exists():
            return run_of(json.loads(path.read_text()))
        made = make()
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(made)))
        partial.replace(path)
        return made

    def has(self, name: str) -> bool:
        """Return whether a run is kept under a name."""
        return (self.folder / f"{name}.json").exists()


def run_of(content: Mapping[str, Any]) -> Run:
    """Return the run that a file's content tells of."""
    points = [Point(**point) for point in content["points"]]
    return Run(**{**content, "points": points})
