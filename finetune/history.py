"""The rounds of a run, read from its `metrics.jsonl`: sums, and how long the others will take."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from pydantic import ConfigDict, Field, ValidationError

from finetune.errors import RunFolderError
from planner.config import StrictModel

if TYPE_CHECKING:
    from finetune.rounds import RoundRecord

METRICS_FILE = "metrics.jsonl"


class _Part(StrictModel):
    model_config = ConfigDict(extra="ignore")


class ErrorLine(_Part):
    """A round's aggregation error; see `aggregation.AggregationError`."""

    relative: float


class HeldOutLine(_Part):
    """How the adapter that a round began with was judged; see `held_out.HeldOut`."""

    loss: dict[str, float] = Field(default_factory=dict)
    mean: float | None = None
    worst: str | None = None
    worst_change: float | None = None


class ScheduleLine(_Part):
    """Which version a scheduled job's line is of, and when; see `rounds.VersionFacts`."""

    adapter: str
    at_seconds: float


class RoundLine(_Part):
    """What displays and plots read of a round; see `rounds.RoundRecord`, which has more."""

    round: int
    loss: dict[str, float]
    refused: dict[str, str]
    download_bytes: int
    upload_bytes: int
    seconds: float
    rank: int | None = None
    aggregation_error: ErrorLine | None = None
    held_out: HeldOutLine = HeldOutLine()
    schedule: ScheduleLine | None = None

    @classmethod
    def of(cls, record: "RoundRecord") -> "RoundLine":
        """Return a record as its line will be read."""
        return cls.model_validate(asdict(record))

    @property
    def adapter(self) -> str:
        """Whose version it is, of several adapters; "" where there is one."""
        return "" if self.schedule is None else self.schedule.adapter

    @property
    def mean_loss(self) -> float:
        """Plain mean of the clients' training losses, nats a token."""
        return sum(self.loss.values()) / len(self.loss)


def read_history(folder: Path) -> list[RoundLine]:
    """Return the rounds of a run folder in order; a last line that is still written is left out.

    Raises:
        RunFolderError: If a line is malformed or the file cannot be read.
    """
    try:
        text = (folder / METRICS_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise RunFolderError(
            folder, f"{METRICS_FILE} cannot be read ({error}); check the file"
        ) from None
    lines = text.split("\n")[:-1]
    try:
        return [RoundLine.model_validate(json.loads(line)) for line in lines]
    except (ValueError, ValidationError) as error:
        raise RunFolderError(
            folder, f"{METRICS_FILE} is malformed ({type(error).__name__}); start a new run"
        ) from None


def download_bytes(history: Sequence[RoundLine]) -> int:
    """Return the bytes sent to clients in these rounds."""
    return sum(line.download_bytes for line in history)


def upload_bytes(history: Sequence[RoundLine]) -> int:
    """Return the bytes that came from clients in these rounds."""
    return sum(line.upload_bytes for line in history)


def seconds_left(history: Sequence[RoundLine], *, num_rounds: int) -> float | None:
    """Return how long the other rounds take at the median of these; None before the first."""
    if not history:
        return None
    return median(line.seconds for line in history) * max(0, num_rounds - history[-1].round)
