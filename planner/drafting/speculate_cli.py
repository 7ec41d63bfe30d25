"""`motley plan speculate`: parses first, imports the planner afterwards."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from planner.console import configure_logging, output

if TYPE_CHECKING:
    from planner.drafting.box import Box
    from planner.drafting.cost_curve_file import CostCurveFile
    from planner.drafting.draft_tree import Acceptance
    from planner.hardware.gpu_spec import DType

CONSTANT_DEPTHS = 16
"""How deep one acceptance for every depth reaches."""


class WeightType(StrEnum):
    """How weights are stored."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FP8 = "fp8"
    INT8 = "int8"
    INT4 = "int4"


Hardware = Annotated[
    str, typer.Option(metavar="NAME[,NAME]", help="Devices; the first runs the target.")
]
Chances = Annotated[
    str,
    typer.Option(
        metavar="A[/A..][,A..]",
        help="Chance that a guess is right, by depth; after a slash that of the next-ranked "
        "guess, for trees: 0.6/0.15,0.5/0.1. One number holds at every depth.",
    ),
]
Requests = Annotated[
    int, typer.Option(min=1, max=1024, help="Requests in a step, all drafting alike.")
]
Context = Annotated[
    int, typer.Option(min=1, max=100_000_000, help="Context of each request, in tokens.")
]
TargetType = Annotated[
    WeightType, typer.Option(help="Target's weights; auto: float32 on a CPU, else 16 bits.")
]
DraftType = Annotated[
    WeightType, typer.Option(help="Draft's weights; auto: by the device it is tried on.")
]
GpuMemory = Annotated[
    str | None, typer.Option(help="Memory free on each GPU; default: 90 % of its own.")
]
HalfBatches = Annotated[
    bool, typer.Option("--half-batches", help="Draft one half while the other is verified.")
]
PreDraftHits = Annotated[
    float, typer.Option(min=0, max=1, help="Chance that a draft made during verification holds.")
]
CurveFile = Annotated[
    Path | None, typer.Option(help="Measured costs (JSON) in place of predicted ones.")
]
Catalogues = Annotated[
    list[Path] | None, typer.Option(help="File with devices and models of your own.")
]


def speculate(
    model: Annotated[str, typer.Argument(help="Target: a folder or a hub id.")],
    draft: Annotated[str, typer.Option(help="Small model that guesses ahead.")],
    hardware: Hardware,
    acceptance: Chances = "0.7",
    concurrent_requests: Requests = 1,
    context_tokens: Context = 1024,
    target_dtype: TargetType = WeightType.AUTO,
    draft_dtype: DraftType = WeightType.AUTO,
    gpu_memory: GpuMemory = None,
    half_batches: HalfBatches = False,
    pre_draft_hits: PreDraftHits = 0.0,
    curve: CurveFile = None,
    catalogue: Catalogues = None,
) -> None:
    """Say whether drafting pays for MODEL on some devices, where, and how much to draft.

    Costs are predicted from data sheets unless --curve holds measured ones.

    Exit codes: 0 done, 2 bad input.
    """
    configure_logging()
    if not 0 <= pre_draft_hits <= 1:  # the range of an option lets NaN pass
        raise typer.BadParameter(f"--pre-draft-hits is {pre_draft_hits}; give a chance from 0 to 1")
    table = _acceptance(acceptance)
    memory = None if gpu_memory is None else _bytes(gpu_memory)
    names = _names(hardware)
    from planner.documents import read_document
    from planner.drafting.box import Box
    from planner.drafting.candidate import Overlap
    from planner.drafting.cost_curve_file import CostCurveFile
    from planner.drafting.speculate_report import print_speculation
    from planner.hardware.catalogue import load_catalogue
    from planner.hardware.find_model import find_model

    measured = None if curve is None else read_document(curve, CostCurveFile)
    known = load_catalogue(catalogue or ())
    box = Box(
        target=find_model(model, known),
        draft=find_model(draft, known),
        devices=tuple(known.gpu(name) for name in names),
        target_dtype=_dtype(target_dtype),
        draft_dtype=_dtype(draft_dtype),
        num_requests=concurrent_requests,
        context_tokens=context_tokens,
        gpu_memory_bytes=memory,
    )
    overlap = Overlap(half_batches=half_batches, ready_fraction=pre_draft_hits)
    plan = box.speculation_plan(table, overlap, measured)
    print_speculation(plan, output(), notes=_notes(box, measured, acceptance))


def _notes(box: Box, measured: CostCurveFile | None, acceptance: str) -> list[str]:
    """Return what the figures rest on."""
    from planner.drafting.predicted_costs import coefficients_of

    predicted = [name for name in box.names if measured is None or name not in measured.drafts]
    sets = {coefficients_of(gpu).name: None for gpu in box.devices}
    notes = [f"acceptance {acceptance} is given, not measured: a server's `/metrics` counts yours"]
    if measured is None:
        what = "costs are"
    elif predicted:
        what = f"costs of the draft on {', '.join(predicted)} are"
    else:
        return notes
    return [*notes, f"{what} predicted (coefficients {', '.join(sets)}), not measured"]


def _names(hardware: str) -> list[str]:
    names = [name.strip() for name in hardware.split(",")]
    if not all(names):
        raise typer.BadParameter(
            f"--hardware is {hardware!r}; give names of devices, such as cpu-epyc-9654,L4"
        )
    return names


def _dtype(chosen: WeightType) -> DType | None:
    return None if chosen is WeightType.AUTO else cast("DType", chosen.value)


def _bytes(words: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        size = TypeAdapter(ByteSize).validate_python(words)
    except ValidationError:
        size = ByteSize(-1)
    if size < 0:
        raise typer.BadParameter(f"--gpu-memory {words!r} is no size; write for example 6GiB")
    return int(size)


def _acceptance(words: str) -> Acceptance:
    """Return the table that `0.7`, `0.7,0.6` or `0.6/0.15,0.5/0.1` stands for."""
    from planner.drafting.draft_tree import checked_acceptance

    try:
        table = checked_acceptance(
            [[float(chance) for chance in depth.split("/")] for depth in words.split(",")]
        )
    except ValueError as error:
        problem = str(error) if "acceptance" in str(error) else "it holds something else"
        raise typer.BadParameter(
            f"--acceptance is {words!r}: {problem}; write chances such as 0.7, 0.7,0.6 or 0.6/0.15"
        ) from None
    return table * CONSTANT_DEPTHS if len(table) == 1 else table
