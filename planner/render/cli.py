"""`motley plan render`: parses first, imports the renderers afterwards."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from planner.console import configure_logging
from planner.render.options import Files


class Target(StrEnum):
    """What files are rendered for; `targets.py` holds the same names."""

    KUBERNETES = "kubernetes"
    LLM_D = "llm-d"
    SKYPILOT = "skypilot"
    COMPOSE = "compose"
    LOCAL = "local"
    MEGATRON = "megatron"
    TORCHTITAN = "torchtitan"


class Engine(StrEnum):
    """What serves a model."""

    AUTO = "auto"
    VLLM = "vllm"
    MOTLEY = "motley"


def render(
    file: Annotated[
        Path,
        typer.Argument(help="A plan of `motley plan fleet` or `motley plan training --place`."),
    ],
    target: Annotated[Target, typer.Option(help="What to render for.")],
    folder: Annotated[
        Path | None, typer.Option("--output", help="New folder; default: rendered/TARGET.")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="auto: vLLM on GPUs, motley serve on CPU hosts.")
    ] = Engine.AUTO,
    vllm_image: Annotated[
        str | None, typer.Option(help="Container image of vLLM; default: its release, by vendor.")
    ] = None,
    motley_image: Annotated[
        str, typer.Option(help="Container image of Motley; the rendered Dockerfile builds it.")
    ] = "motley:0.1.0",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the folder and whatever it holds.")
    ] = False,
) -> None:
    """Write the files that run a plan: replicas, the router with the planned weights, monitoring.

    FILE is a plan of `motley plan fleet --output`; for megatron and torchtitan one of
    `motley plan training --place --output`: arguments, ranks and network settings of the job.

    Exit codes: 0 written, 2 bad input, or a plan that cannot be rendered for the target.
    """
    configure_logging()
    from planner.render.folder import check_folder, write_folder

    place = folder or Path("rendered", target.value)
    check_folder(place, force=force)
    if target in (Target.MEGATRON, Target.TORCHTITAN):
        files = _training_files(file, target)
    else:
        files = _fleet_files(file, target, engine, vllm_image, motley_image)
    write_folder(place, files, force=force)
    print(f"{len(files)} files for {target.value} in {place}; start with {place / 'README.md'}")


def _fleet_files(
    file: Path, target: Target, engine: Engine, vllm_image: str | None, motley_image: str
) -> Files:
    from planner.fleet.plan_file import read_plan
    from planner.render.options import RenderOptions
    from planner.render.targets import TARGETS, render

    name = next(name for name in TARGETS if name == target.value)
    options = RenderOptions(engine=engine.value, vllm_image=vllm_image, motley_image=motley_image)
    return render(read_plan(file), name, options)


def _training_files(file: Path, target: Target) -> Files:
    from planner.render.targets import TRAINING_TARGETS, render_training
    from planner.render.training_file import read_training_plan

    name = next(name for name in TRAINING_TARGETS if name == target.value)
    return render_training(read_training_plan(file), name)
