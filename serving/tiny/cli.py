"""Command line of `motley serve train-tiny`: makes the tiny family from the running Python's text."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import Progress, TaskID

from planner.console import configure_logging, progress_bar, run_app
from planner.console import output as console
from serving.draft_training.cli import StageBars

if TYPE_CHECKING:
    from serving.tiny.recipe import Recipe

app = typer.Typer(add_completion=False)

StageName = Literal["all", "target", "draft", "card", "head"]


def run(arguments: list[str]) -> None:
    """Run `motley serve train-tiny` with the words after it.

    Raises:
        click.ClickException: On a usage error.
        PlannerError: If the work folder, the output folder or the step costs do not fit.
    """
    run_app(app, arguments, name="motley serve train-tiny")


@app.command()
def train_tiny(
    output: Annotated[
        Path, typer.Option(help="Folder to write the family to; an older family there is replaced.")
    ],
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder of checkpoints to resume from.", show_default="in the user's cache"
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Training steps of the target.", show_default="the recipe's"),
    ] = None,
    draft_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Distillation steps of the draft.", show_default="the recipe's"),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processor threads.", show_default="PyTorch's choice")
    ] = None,
    stage: Annotated[
        StageName,
        typer.Option(
            help="Do one part of the work; target and draft leave the output alone, head trains "
            "the head of the target that is there."
        ),
    ] = "all",
) -> None:
    """Train the tiny model family on this Python's standard library; interrupt and repeat at will."""
    configure_logging()
    # Torch takes seconds to import, so it waits until the command line is known to be good.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from serving.tiny.corpus import read_sources, split, standard_library
    from serving.tiny.family import Stage, make_family
    from serving.tiny.measure import measure_step_costs
    from serving.tiny.work import WorkFolder

    disable_progress_bar()  # type: ignore[no-untyped-call]
    if threads is not None:
        torch.set_num_threads(threads)
    with progress_bar() as display:
        make_family(
            _recipe(steps, draft_steps),
            corpus=split(read_sources(standard_library())),
            work=WorkFolder(work or default_work_folder()),
            output=output,
            stage=Stage(stage),
            progress=TrainingBars(display),
            measure=measure_step_costs,
            report_head=StageBars(display),
        )
    if stage == "head":
        console().print(f"wrote {output / 'head'}; its figures are in its README.md")
    if stage in ("all", "card"):
        console().print(f"wrote {output}; its figures are in {output / 'README.md'}")


class TrainingBars:
    """One progress bar a model, with rate, remaining time and a smoothed loss."""

    def __init__(self, display: Progress) -> None:
        """Draw on `display`."""
        self._display = display
        self._bars: dict[str, TaskID] = {}
        self._losses: dict[str, float] = {}

    def __call__(self, role: str, done: int, total: int, loss: float) -> None:
        """Show that `role` has `done` of `total` steps behind it."""
        if role not in self._bars:
            # Steps of earlier runs do not count towards the rate.
            self._bars[role] = self._display.add_task(role, total=total, completed=done - 1)
        smoothed = 0.98 * self._losses.get(role, loss) + 0.02 * loss
        self._losses[role] = smoothed
        self._display.update(
            self._bars[role], description=f"{role}, loss {smoothed:.3f}", advance=1
        )


def default_work_folder() -> Path:
    """Return the folder for checkpoints below the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "motley" / "train-tiny"


def _recipe(steps: int | None, draft_steps: int | None) -> "Recipe":
    from serving.tiny.recipe import Recipe

    recipe = Recipe()
    changes = {}
    if steps is not None:
        changes["target_schedule"] = recipe.target_schedule.model_copy(update={"num_steps": steps})
    if draft_steps is not None:
        changes["draft_schedule"] = recipe.draft_schedule.model_copy(
            update={"num_steps": draft_steps}
        )
    return recipe.model_copy(update=changes)
