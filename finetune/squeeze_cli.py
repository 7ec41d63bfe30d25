"""`motley finetune squeeze`: its words. Parses first, imports torch afterwards."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from finetune.errors import FinetuneError
from planner.console import configure_logging, output, progress_bar


def squeeze_command(
    adapter_folder: Annotated[
        Path, typer.Argument(metavar="ADAPTER", help="Folder of any plain LoRA adapter of PEFT's.")
    ],
    rank: Annotated[int | None, typer.Option(help="This rank for every module.")] = None,
    energy: Annotated[
        float | None,
        typer.Option(help="Each module's least rank that keeps this share of its squared norm."),
    ] = None,
    most_bytes: Annotated[
        str | None,
        typer.Option("--bytes", metavar="SIZE", help="Longest weights' file, such as 2MB."),
    ] = None,
    flat: Annotated[
        bool,
        typer.Option(
            "--flat", help="One rank and one alpha, for engines that pass over rank_pattern."
        ),
    ] = False,
    output_folder: Annotated[
        Path | None,
        typer.Option("--output", help="Folder to write. Default: ADAPTER-squeezed."),
    ] = None,
) -> None:
    """Write a copy of ADAPTER at lower ranks: the nearest there is, from its factors alone.

    Give one of --rank, --energy and --bytes.
    """
    if [rank, energy, most_bytes].count(None) != 2:
        raise FinetuneError("one of --rank, --energy and --bytes decides; give exactly one")
    if rank is not None and rank < 1:
        raise FinetuneError(f"--rank {rank} is no rank; give at least 1")
    if energy is not None and not 0 < energy <= 1:
        raise FinetuneError(f"--energy {energy} is no share; give one above 0 and at most 1")
    size = None if most_bytes is None else _size(most_bytes)
    whole = adapter_folder.resolve()  # also of a path that ends in dots
    target = output_folder or whole.parent / f"{whole.name}-squeezed"
    configure_logging()

    from finetune.rank_choice import by_energy, fixed_rank
    from finetune.squeeze_folder import squeeze_folder
    from finetune.squeeze_report import squeeze_table

    choose = (
        fixed_rank(rank) if rank else by_energy(energy, is_uniform=flat) if energy else size or 0
    )
    with progress_bar() as progress:
        task = progress.add_task("squeezing", total=None)
        modules = squeeze_folder(
            adapter_folder,
            target,
            choose=choose,
            is_flat=flat,
            on_count=lambda count: progress.update(task, total=count),
            on_module=lambda: progress.advance(task),
        )
    console = output()
    console.print(squeeze_table(modules))
    console.print(f"adapter: {target}", soft_wrap=True)


def _size(text: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise FinetuneError(f"--bytes {text!r} is no size; give one such as 2MB") from None
