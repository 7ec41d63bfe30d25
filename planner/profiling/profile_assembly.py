"""Putting cells together into a profile."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.errors import ProfileError
from planner.profiling.profile import Cell, DecodeBatch, ObservedLimits, Profile, TakenUnder

Cells = Mapping[tuple[int, int], Cell]
"""By `(input_tokens, output_tokens)`."""


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """What was measured, in the words of the profile."""

    gpu: str
    model: str
    date: str
    gpus_per_replica: int = 1
    engine: str | None = None
    engine_version: str | None = None
    dtype: str | None = None
    is_simulated: bool = False


def assembled(
    facts: ReplicaFacts, cells: Cells, *, taken_under: TakenUnder | None = None, **others: Any
) -> Profile:
    """Return the profile whose grid holds every cell; sizes between stay empty.

    Args:
        facts: Of the replica.
        cells: By size.
        taken_under: Target of imported rates.
        others: Further fields of `Profile`.

    Raises:
        ProfileError: If there is no cell.
    """
    if not cells:
        raise ProfileError("no run of any size was measured; measure or import at least one")
    inputs = sorted({size[0] for size in cells})
    outputs = sorted({size[1] for size in cells})
    named = {name: getattr(facts, name) for name in facts.__slots__}
    return Profile(
        **named,
        **others,
        input_tokens=tuple(inputs),
        output_tokens=tuple(outputs),
        cells=tuple(tuple(cells.get((i, o), Cell()) for o in outputs) for i in inputs),
        taken_under=taken_under,
    )


def merged(profiles: Iterable[Profile]) -> Profile:
    """Return several profiles of one kind of replica as one, with all their runs.

    Raises:
        ProfileError: If they are of different replicas, or of imported rates under different
            targets, or two hold an imported rate of one size, or their limits contradict each other.
    """
    first, *rest = profiles
    cells = _cells(first)
    facts, target, limits = _facts(first), first.taken_under, first.limits
    lone_prompts, decode_batches = [*first.lone_prompts], [*first.decode_batches]
    mixed_prompts = [*first.mixed_prompts]
    for other in rest:
        facts = _same_replica(facts, _facts(other))
        target = same_target(target, other.taken_under)
        limits = _same_limits(limits, other.limits)
        for size, cell in _cells(other).items():
            cells[size] = joined(size, cells.get(size, Cell()), cell)
        lone_prompts += other.lone_prompts
        decode_batches += other.decode_batches
        mixed_prompts += other.mixed_prompts
    return assembled(
        facts,
        cells,
        taken_under=target,
        lone_prompts=tuple(lone_prompts),
        decode_batches=tuple(decode_batches),
        mixed_prompts=tuple(mixed_prompts),
        limits=_within(limits, decode_batches),
    )


def joined(size: tuple[int, int], cell: Cell, other: Cell) -> Cell:
    """Return one cell with the runs of two.

    Raises:
        ProfileError: If an imported rate would stand beside runs or another rate.
    """
    if (cell.thresholded or other.thresholded) and cell != Cell() and other != Cell():
        raise ProfileError(
            f"input {size[0]}, output {size[1]} tokens: an imported rate stands beside other "
            "measurements of the same size; import one of the files"
        )
    return Cell(runs=(*cell.runs, *other.runs), thresholded=cell.thresholded or other.thresholded)


def same_target(target: TakenUnder | None, other: TakenUnder | None) -> TakenUnder | None:
    """Return the one target of imported rates.

    Raises:
        ProfileError: If there are two; names the differences.
    """
    if target is None or other is None:
        return target or other
    differences = target.differences(other)
    if differences:
        raise ProfileError(
            f"the files hold rates picked under different targets: {'; '.join(differences)}; "
            "a mix of them means nothing; import files of one target"
        )
    return target


def _cells(profile: Profile) -> dict[tuple[int, int], Cell]:
    return {
        (inputs, outputs): cell
        for inputs, row in zip(profile.input_tokens, profile.cells, strict=True)
        for outputs, cell in zip(profile.output_tokens, row, strict=True)
        if cell != Cell()
    }


def _facts(profile: Profile) -> ReplicaFacts:
    return ReplicaFacts(**{name: getattr(profile, name) for name in ReplicaFacts.__slots__})


def _same_replica(facts: ReplicaFacts, other: ReplicaFacts) -> ReplicaFacts:
    date = max(facts.date, other.date)
    for name in facts.__slots__:
        mine, theirs = getattr(facts, name), getattr(other, name)
        if mine != theirs and name != "date":
            raise ProfileError(
                f"the profiles are of different replicas: {name} {mine} against {theirs}; "
                "keep one file a kind of replica"
            )
    return replace(facts, date=date)


def _same_limits(limits: ObservedLimits, other: ObservedLimits) -> ObservedLimits:
    known = {}
    for name in ObservedLimits.model_fields:
        mine, theirs = getattr(limits, name), getattr(other, name)
        if None not in (mine, theirs) and mine != theirs:
            raise ProfileError(
                f"the profiles contradict each other: {name} {mine} against {theirs}; "
                "keep those that were measured with the same settings of the engine"
            )
        known[name] = theirs if mine is None else mine
    return ObservedLimits(**known)


def _within(limits: ObservedLimits, batches: Iterable[DecodeBatch]) -> ObservedLimits:
    most = max((batch.sequences for batch in batches), default=0)
    if limits.max_sequences is not None and most > limits.max_sequences:
        raise ProfileError(
            f"the profiles contradict each other: max_sequences {limits.max_sequences} in one, "
            f"{most} sequences decoding at once in another; "
            "keep those that were measured with the same settings of the engine"
        )
    return limits
