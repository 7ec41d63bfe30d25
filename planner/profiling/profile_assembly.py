"""Putting cells together into a profile."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from planner.errors import ProfileError
from planner.profiling.profile import Cell, Profile, TakenUnder

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
        cells: At least one.
        taken_under: Target of imported rates.
        others: Further fields of `Profile`.
    """
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
            targets, or two hold an imported rate of one size.
    """
    first, *rest = profiles
    cells = _cells(first)
    facts, target = _facts(first), first.taken_under
    lone_prompts, decode_batches = [*first.lone_prompts], [*first.decode_batches]
    for other in rest:
        facts = _same_replica(facts, _facts(other))
        target = same_target(target, other.taken_under)
        for size, cell in _cells(other).items():
            cells[size] = joined(size, cells.get(size, Cell()), cell)
        lone_prompts += other.lone_prompts
        decode_batches += other.decode_batches
    return assembled(
        facts,
        cells,
        taken_under=target,
        lone_prompts=tuple(lone_prompts),
        decode_batches=tuple(decode_batches),
        limits=first.limits,
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
