"""`motley plan render`: parses first, imports the renderers afterwards."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from planner.console import configure_logging


class Target(StrEnum):
    """What files are rendered for; `targets.py` holds the same names."""

    KUBERNETES = "kubernetes"
    LLM_D = "llm-d"
    SKYPILOT = "skypilot"
    COMPOSE = "compose"
    LOCAL = "local"


class Engine(StrEnum):
    """What serves a model."""

    AUTO = "auto"
    VLLM = "vllm"
    MOTLEY = "motley"


def render(
    file: Annotated[Path, typer.Argument(help="plan.json, as `motley plan fleet` writes it.")],
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

    FILE is a plan of `motley plan fleet --output`.

    Exit codes: 0 written, 2 bad input, or a plan that cannot be rendered for the target.
    """
    configure_logging()
    from planner.fleet.plan_file import read_plan
    from planner.render.folder import check_folder, write_folder
    from planner.render.options import RenderOptions
    from planner.render.targets import render as render_plan

    place = folder or Path("rendered", target.value)
    check_folder(place, force=force)
    plan = read_plan(file)
    options = RenderOptions(engine=engine.value, vllm_image=vllm_image, motley_image=motley_image)
    files = render_plan(plan, target.value, options)
    write_folder(place, files, force=force)
    print(f"{len(files)} files for {target.value} in {place}; start with {place / 'README.md'}")
