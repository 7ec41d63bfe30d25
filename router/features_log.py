"""The features log: one JSON line a request, to train from; hashed features, never text.

A grade arrives later and names a line by its request id (`router.grades`). Fields of schema 1:

- `schema_version`: 1; `features_version`: that of `router.prediction.features`.
- `request_id`, `arrival_unix_seconds`: as in the traffic log.
- `asked`: the pool or model the client named.
- `models`: what could be picked; `predicted`: their predicted qualities, null without a predictor.
- `pick`, `reason`: the model picked, and why; `named` where the client named it.
- `propensity`: how likely that pick was, for estimates that weigh by it.
- `goals`: what was asked for, goal to weight.
- `prompt_bytes`: length of the text in UTF-8.
- `indices`, `values`, `cues`: the features' arrays in base64, little-endian uint32 and float32.

To train: `read_lines` and `router.grades.read_grades`, joined on the request id; a graded model need
not be the pick, as a fallback may have answered.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from planner.errors import DocumentError
from router.line_file import LineFile
from router.prediction.features import FEATURES_VERSION, HashedFeatures

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class FeaturesLine:
    """What is kept of one request."""

    request_id: str
    arrival_unix_seconds: float
    asked: str
    models: tuple[str, ...]
    predicted: tuple[float, ...] | None
    pick: str
    reason: str
    propensity: float
    goals: Mapping[str, float]
    prompt_bytes: int
    features: HashedFeatures

    def text(self) -> str:
        """Return the line, without its end."""
        predicted = self.predicted
        content = {
            "schema_version": SCHEMA_VERSION,
            "features_version": FEATURES_VERSION,
            "request_id": self.request_id,
            "arrival_unix_seconds": self.arrival_unix_seconds,
            "asked": self.asked,
            "models": self.models,
            "predicted": None if predicted is None else [round(one, 4) for one in predicted],
            "pick": self.pick,
            "reason": self.reason,
            "propensity": round(self.propensity, 6),
            "goals": dict(self.goals),
            "prompt_bytes": self.prompt_bytes,
            "indices": _packed(self.features.indices, "<u4"),
            "values": _packed(self.features.values, "<f4"),
            "cues": _packed(self.features.cues, "<f4"),
        }
        return json.dumps(content, separators=(",", ":"))


class FeaturesLog:
    """The file of the lines, for several processes; full, it is renamed to `NAME.1`.

    Raises:
        StartError: If the file cannot be opened for appending.
    """

    def __init__(self, path: Path, *, most_bytes: int) -> None:
        self._file = LineFile(
            path, setting="model_choice.features_log", rotate_bytes=most_bytes, keep=1, mode=0o600
        )

    def follow(self, *, most_bytes: int) -> None:
        """Go by another size."""
        self._file.rotate_bytes = most_bytes

    @property
    def num_lost_lines(self) -> int:
        """Lines that the disk did not take."""
        return self._file.num_lost_lines

    def write(self, line: FeaturesLine) -> None:
        """Append `line`; one that cannot be written is counted and reported, not raised."""
        self._file.write(line.text())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class FeaturesLogs:
    """The open logs of a process by path: a reload goes on with the one that is there."""

    def __init__(self) -> None:
        self._logs: dict[Path, FeaturesLog] = {}

    def at(self, path: Path, most_bytes: int) -> FeaturesLog:
        """Return the log at `path`, opened the first time it is asked for.

        Raises:
            StartError: If it cannot be opened.
        """
        if path not in self._logs:
            self._logs[path] = FeaturesLog(path, most_bytes=most_bytes)
        self._logs[path].follow(most_bytes=most_bytes)
        return self._logs[path]

    @property
    def num_lost_lines(self) -> int:
        """Lines that the disk did not take, of all logs."""
        return sum(log.num_lost_lines for log in self._logs.values())

    def close(self) -> None:
        """Close them all."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()


def read_lines(path: Path) -> Iterator[FeaturesLine]:
    """Yield the lines of a features log, and of the one it followed (`NAME.1`), oldest first.

    Raises:
        DocumentError: If a file cannot be read, or a line is none of this version.
    """
    before = Path(f"{path}.1")
    for each in (before, path) if before.exists() else (path,):
        try:
            with each.open(encoding="utf-8") as lines:
                for number, text in enumerate(lines, start=1):
                    yield _read_line(text, each, number)
        except (OSError, UnicodeDecodeError) as error:
            raise DocumentError(each, f"cannot be read ({error}); name a features log") from None


def _read_line(text: str, path: Path, number: int) -> FeaturesLine:
    try:
        content = json.loads(text)
        versions = content["schema_version"], content["features_version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        problem = f"line {number} is no line of a features log; take it out"
        raise DocumentError(path, problem) from None
    if versions != (SCHEMA_VERSION, FEATURES_VERSION):
        raise DocumentError(
            path,
            f"line {number} has versions {versions}, this reader knows "
            f"{(SCHEMA_VERSION, FEATURES_VERSION)}; leave the file out",
        )
    try:
        predicted = content["predicted"]
        return FeaturesLine(
            request_id=str(content["request_id"]),
            arrival_unix_seconds=float(content["arrival_unix_seconds"]),
            asked=str(content["asked"]),
            models=tuple(map(str, content["models"])),
            predicted=None if predicted is None else tuple(map(float, predicted)),
            pick=str(content["pick"]),
            reason=str(content["reason"]),
            propensity=float(content["propensity"]),
            goals={str(goal): float(weight) for goal, weight in content["goals"].items()},
            prompt_bytes=int(content["prompt_bytes"]),
            features=HashedFeatures(
                _unpacked(content["indices"], "<u4").astype(np.uint32),
                _unpacked(content["values"], "<f4").astype(np.float32),
                _unpacked(content["cues"], "<f4").astype(np.float32),
            ),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"{type(error).__name__} {error}"
        problem = f"line {number} is not whole ({told:.80}); take it out"
        raise DocumentError(path, problem) from None


def _packed(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(values.astype(kind, copy=False).tobytes()).decode("ascii")


def _unpacked(text: str, kind: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype=kind)
