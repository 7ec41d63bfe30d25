"""Number and name types of configurations; quantities are SI and carry their unit in the name."""

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field


def _refuse_truth(value: object) -> object:
    # pydantic reads `yes` as 1.0: a switch in a number's place is a mistake, never a quantity.
    if isinstance(value, bool):
        raise ValueError("a number is asked, not true or false; write a number")
    return value


def _null_is_zero(value: object) -> object:
    return 0.0 if value is None else value


def _refuse_traces(value: float) -> float:
    if 0 < value < 1e-6:
        raise ValueError("is above 0 but under 1e-6; write 0 or correct the unit")
    return value


Number = Annotated[float, BeforeValidator(_refuse_truth)]
"""A finite number that is not a truth value."""

NonNegative = Annotated[Number, Field(ge=0, le=1e6)]
"""A number from 0 to a million."""

Positive = Annotated[Number, Field(gt=0, le=1e6)]
"""A number above 0, at most a million."""

Rate = Annotated[Positive, AfterValidator(_refuse_traces)]
"""Requests a second, from 1e-6 to a million."""

Price = Annotated[NonNegative, AfterValidator(_refuse_traces)]
"""USD an hour: 0, or from 1e-6 to a million."""

Utilisation = Annotated[Number, Field(ge=0.01, le=1)]
"""A load of one replica, as a fraction from 0.01 to 1."""

Count = Annotated[int, BeforeValidator(_refuse_truth), Field(ge=0, le=1_000_000)]
"""A whole number from 0 to a million."""

Tokens = Annotated[int, BeforeValidator(_refuse_truth), Field(gt=0, le=1_000_000_000)]
"""A number of tokens, at least 1."""

Name = Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/+@-]*$")]
"""A name without blanks: letters, digits and `. _ : / + @ -`."""

ModelSource = Annotated[str, Field(max_length=1000, pattern=r"^[^\s\x00-\x1f-][^\x00-\x1f]*$")]
"""A hub id, or the path of a folder."""

Rates = Annotated[tuple[tuple[NonNegative, ...], ...], Field(min_length=1)]
"""A matrix of rates; rows are input ranges, columns output ranges."""

Throughput = Annotated[NonNegative, BeforeValidator(_null_is_zero), AfterValidator(_refuse_traces)]
"""Requests a second, at least 1e-6; 0 or null: the size cannot be served."""

Throughputs = Annotated[tuple[tuple[Throughput, ...], ...], Field(min_length=1)]
"""A matrix of throughputs; rows are input ranges, columns output ranges."""
