"""Measured cost curves as a file, in the layout an engine writes at start-up."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from planner.config import StrictModel
from planner.drafting.cost_curve import CostCurve
from planner.units import Name, NonNegative, Positive

Rows = Annotated[int, Field(ge=1, le=65536)]


class MeasuredCurve(StrictModel):
    """Seconds of one forward by rows."""

    rows: Annotated[tuple[Rows, ...], Field(min_length=1)]
    """Row counts, from 1, rising."""
    seconds: Annotated[tuple[Positive, ...], Field(min_length=1)]
    """Seconds at each of them."""

    @model_validator(mode="after")
    def _is_a_curve(self) -> Self:
        self.curve()
        return self

    def curve(self) -> CostCurve:
        """Return the points as a curve."""
        return CostCurve(self.rows, self.seconds)


class MeasuredDraft(MeasuredCurve):
    """A draft on one device."""

    round_seconds: NonNegative = 0.0
    """Copies and waits of one round, whatever the rows; 0 on the target's own device."""


class CostCurveFile(StrictModel):
    """What one machine measured."""

    schema_version: Literal[1]
    """Version of this file's layout."""
    target: MeasuredCurve
    """The target, at the context it was measured with."""
    drafts: dict[Name, MeasuredDraft] = Field(default_factory=dict)
    """The draft by device; a device that is missing is predicted."""
