"""Costs fitted to measured groups by least squares of relative errors.

Each measurement is one group of one micro-batch. Its time is linear in the costs:

    seconds = a sum of s^2 / (d speed) + b sum of s / (d speed) + w(d) bytes(d) sum of s / d + c

with `a`, `b`, `c` and one `w` a degree, the inverse of its exchange rate, all at least 0.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import median

from pydantic import Field, ValidationError

from planner.config import StrictModel
from planner.documents import describe, read_text
from planner.errors import DocumentError
from planner.profiling.nonnegative_fit import nonnegative_fit
from planner.training.cluster import Cluster
from planner.training.sequence_costs import SequenceCosts, TrainingFleet
from planner.training.training_plan import Rank
from planner.units import Number, Tokens

LEAST_MEASUREMENTS = 8

_FAR_MEDIANS, _LEAST_FAR = 4.0, 0.5
"""A measurement is far off beyond so many medians of the relative error, and at least by so much."""

POOR_ERROR_FRACTION = 0.3
"""A median error from which the fit is told to be poor."""

FASTEST_RATE = 1e18
"""What a degree gets whose exchange took no time that could be told from the rest."""


class GroupMeasurement(StrictModel):
    """How long one group took for its sequences of one micro-batch."""

    lengths: tuple[Tokens, ...] = Field(min_length=1)
    """Tokens of its sequences."""
    ranks: tuple[Rank, ...] = Field(min_length=1)
    """Its devices."""
    seconds: Number = Field(gt=0)
    """Forward and backward, exchanges included."""

    @property
    def degree(self) -> int:
        """Devices of the group."""
        return len(self.ranks)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted costs and how well they tell what was measured."""

    costs: SequenceCosts
    num_measurements: int
    num_left_out: int
    """Of those, far from what the others tell, such as a run's first steps."""
    median_error_fraction: float
    """Median of the absolute error over the measured time."""
    median_error_before_fraction: float
    """The same of the costs that were to be fitted."""
    num_unseen_devices: int
    """The cluster's devices that no measured group had."""
    capped_degrees: tuple[int, ...]
    """Measured faster than the cluster's links, at whose rates plans count them all the same."""


def read_measurements(path: Path) -> list[GroupMeasurement]:
    """Return the measured groups in a JSON lines file.

    Raises:
        DocumentError: If it cannot be read, a line is no measurement, or there are too few.
    """
    found = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            found.append(GroupMeasurement.model_validate(json.loads(line)))
        except ValidationError as error:
            problem = describe(error, GroupMeasurement)
            raise DocumentError(path, f"line {number}: {problem}") from None
        except (ValueError, RecursionError) as error:
            raise DocumentError(
                path, f"line {number}: malformed JSON ({error}); correct it"
            ) from None
    if len(found) < LEAST_MEASUREMENTS:
        raise DocumentError(
            path, f"holds {len(found)} measurements; give at least {LEAST_MEASUREMENTS}"
        )
    return found


def calibrate(
    measurements: Sequence[GroupMeasurement], base: SequenceCosts, cluster: Cluster, *, today: date
) -> Calibration:
    """Return `base` with the costs that fit the measurements best.

    A degree that was not measured takes the rate of the next larger one.

    Raises:
        ValueError: If a measurement is of a rank that the cluster does not have.
    """
    degrees = sorted({m.degree for m in measurements if m.degree > 1})
    rows = [_row(m, base, cluster, degrees) for m in measurements]
    fitted, num_left_out = _fitted(rows, [m.seconds for m in measurements])
    attention, linear, fixed = fitted[:3]
    costs = base.model_copy(
        update={
            "attention_seconds_per_token_squared": attention,
            "linear_seconds_per_token": linear,
            "micro_batch_seconds": fixed,
            "all_to_all_bytes_per_second": {
                degree: 1 / inverse if inverse > 1 / FASTEST_RATE else FASTEST_RATE
                for degree, inverse in zip(degrees, fitted[3:], strict=True)
            },
            "source": f"fitted to {len(measurements) - num_left_out} measured groups",
            "date": today.isoformat(),
        }
    )
    return Calibration(
        costs=costs,
        num_measurements=len(measurements),
        num_left_out=num_left_out,
        num_unseen_devices=cluster.num_devices - len({r for m in measurements for r in m.ranks}),
        median_error_fraction=_median_error(measurements, costs, cluster),
        median_error_before_fraction=_median_error(measurements, base, cluster),
        capped_degrees=_capped(measurements, costs, cluster),
    )


def _fitted(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> tuple[list[float], int]:
    """Return the unknowns of least relative error, and how many rows were left out of the fit.

    Errors count relative to the measured time, so a group that was held up weighs little; one that
    is still far off, against the others' median, is left out and the rest fitted once more.
    """
    relative = [[a / t for a in row] for row, t in zip(rows, seconds, strict=True)]
    first = nonnegative_fit(relative, [1.0] * len(relative))
    errors = [abs(sum(a * x for a, x in zip(row, first, strict=True)) - 1) for row in relative]
    most = max(_LEAST_FAR, _FAR_MEDIANS * median(errors))
    kept = [row for row, error in zip(relative, errors, strict=True) if error <= most]
    if len(kept) < max(LEAST_MEASUREMENTS, len(rows) // 2):
        return first, 0
    return nonnegative_fit(kept, [1.0] * len(kept)), len(rows) - len(kept)


def _row(
    measurement: GroupMeasurement, base: SequenceCosts, cluster: Cluster, degrees: Sequence[int]
) -> list[float]:
    beyond = max(measurement.ranks)
    if beyond >= cluster.num_devices:
        raise ValueError(
            f"a group of rank {beyond} was measured and the cluster has {cluster.num_devices} "
            "devices; name the cluster that was measured"
        )
    degree = measurement.degree
    speed = min(cluster.devices[rank].relative_speed for rank in measurement.ranks)
    tokens = sum(measurement.lengths)
    squares = sum(length * length for length in measurement.lengths)
    exchanged = base.exchanged_bytes_per_token(degree) * tokens / degree
    return [
        squares / (degree * speed),
        tokens / (degree * speed),
        1.0,
        *(exchanged if degree == measured else 0.0 for measured in degrees),
    ]


def _median_error(
    measurements: Sequence[GroupMeasurement], costs: SequenceCosts, cluster: Cluster
) -> float:
    """Return the error of what a planner would count for the measured groups."""
    fleet = TrainingFleet(cluster, costs, max_tokens=costs.model_states[-1].max_tokens)
    return median(
        abs(fleet.group_cost(m.ranks).seconds(m.lengths) / m.seconds - 1) for m in measurements
    )


def _capped(
    measurements: Sequence[GroupMeasurement], costs: SequenceCosts, cluster: Cluster
) -> tuple[int, ...]:
    rates = costs.all_to_all_bytes_per_second
    beyond = {
        m.degree
        for m in measurements
        if m.degree > 1 and cluster.link_bytes_per_second(m.ranks) < rates[m.degree] * (1 - 1e-6)
    }
    return tuple(sorted(beyond))
