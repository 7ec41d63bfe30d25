"""How far engines stay from their devices' peaks: the measured numbers of the performance model."""

from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel
from planner.errors import UnknownNameError
from planner.hardware.catalogue import read_packaged
from planner.hardware.gpu_spec import Date, Source
from planner.units import Name, Number

DEFAULT_COEFFICIENTS = "vllm"
"""The set used where none is named."""


class Fraction(StrictModel):
    """A share of a peak that is reached."""

    value: Annotated[Number, Field(gt=0, le=1)]
    """Above 0, at most 1."""
    unit: Literal["fraction"]
    """Of the data sheet's peak."""
    source: Source
    """Where the number comes from."""
    date: Date
    """When it was measured or published."""


class Duration(StrictModel):
    """A time that passes whatever the batch."""

    value: Annotated[Number, Field(ge=0, le=10)]
    """Seconds."""
    unit: Literal["seconds"]
    """Seconds."""
    source: Source
    """Where the number comes from."""
    date: Date
    """When it was measured or published."""


class Residual(StrictModel):
    """How far the model with these coefficients was from measured times."""

    token_time_fraction: Annotated[Number, Field(ge=0)]
    """Median absolute relative error of decode steps."""
    prompt_time_fraction: Annotated[Number, Field(ge=0)]
    """Median absolute relative error of prompts."""
    source: Source
    """On which measurements, and whether they took part in the fit."""
    date: Date
    """When it was computed."""


class Coefficients(StrictModel):
    """One engine's distance from the peaks of its devices, as `step_model.py` uses it."""

    name: Name
    """Unique name."""
    description: Source
    """Engine and devices it was measured on."""
    weight_bandwidth_fraction: Fraction
    """Memory bandwidth reached while weights are read."""
    kv_bandwidth_fraction: Fraction
    """Memory bandwidth reached while the cache is read."""
    compute_fraction: Fraction
    """Dense FLOP/s reached."""
    link_fraction: Fraction
    """Bandwidth reached between devices."""
    layer_seconds: Duration
    """Launching one layer."""
    step_seconds: Duration
    """Scheduling and sampling, once a step."""
    collective_seconds: Duration
    """One doubling of the devices that take part in an all-reduce, whatever its size."""
    residual: Residual | None = None
    """Error against measurements; nothing: not compared yet."""


class CoefficientSets(StrictModel):
    """The file of coefficients."""

    schema_version: Literal[1]
    """Version of this file's layout."""
    sets: tuple[Coefficients, ...]
    """One entry an engine."""


def built_in_coefficients(name: str = DEFAULT_COEFFICIENTS) -> Coefficients:
    """Return the set called `name`.

    Raises:
        UnknownNameError: If none is.
    """
    sets = {entry.name: entry for entry in read_packaged("coefficients.yaml", CoefficientSets).sets}
    if name not in sets:
        raise UnknownNameError("set of coefficients", name, sets, "name one of these")
    return sets[name]
