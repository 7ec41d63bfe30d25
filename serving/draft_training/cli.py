"""Command line of `motley serve train-draft`."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress, TaskID

from planner.console import configure_logging, progress_bar, run_app
from planner.console import output as console
from serving.errors import ModelError

if TYPE_CHECKING:
    from serving.draft_training.recipe import HeadRecipe
    from serving.draft_training.training import HeadCard

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(arguments: list[str]) -> None:
    """Run `motley serve train-draft` with the words after it.

    Raises:
        click.ClickException: On a usage error.
        PlannerError: If text, work folder or recipe do not fit.
        ServingError: If the model cannot be loaded or the output folder is not to be replaced.
    """
    run_app(app, arguments, name="motley serve train-draft")


@app.command()
def train_draft(
    model: Annotated[str, typer.Argument(help="Local folder or hub id of the target.")],
    data: Annotated[
        list[Path], typer.Option(help="Text or JSON-lines file, or a folder of them; repeatable.")
    ],
    output: Annotated[
        Path, typer.Option(help="Folder to write the head to; an older head there is replaced.")
    ],
    recipe: Annotated[
        Path | None,
        typer.Option(help="YAML or JSON of shape and schedule.", show_default="Dovetail's"),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(
            help="Folder of features and checkpoints to resume from.",
            show_default="in the user's cache, by model and output",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps.", show_default="the recipe's")
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(min=1, max=12, help="Decoder layers.", show_default="the recipe's"),
    ] = None,
    cache_size: Annotated[
        str, typer.Option(help="Most disk room for features; later text is left out.")
    ] = "8GiB",
    device: Annotated[str, typer.Option(help="Where target and head run.")] = "cpu",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Processor threads.", show_default="PyTorch's choice")
    ] = None,
) -> None:
    """Train a Dovetail draft head for MODEL; interrupt and repeat at will."""
    configure_logging()
    for path in data:
        if not path.exists():
            raise ModelError(f"--data {path}: no such file or folder; check the path")
    request = _Request(
        model=model,
        data=data,
        output=output,
        recipe=_recipe(recipe, steps=steps, layers=layers),
        work=work or default_work_folder(model, output),
        cache_bytes=_bytes(cache_size),
        device=device,
        threads=threads,
    )
    _show(_train(request), output)


@dataclass(frozen=True, slots=True)
class _Request:
    """What the command line asks for, checked."""

    model: str
    data: list[Path]
    output: Path
    recipe: "HeadRecipe"
    work: Path
    cache_bytes: int
    device: str
    threads: int | None


def _train(request: _Request) -> "HeadCard":
    # Torch takes seconds to import, so it waits until the command line is known to be good.
    import torch
    from transformers.utils.logging import disable_progress_bar

    from serving.draft_training.frozen import FrozenTarget
    from serving.draft_training.training import train_draft as train

    disable_progress_bar()  # type: ignore[no-untyped-call]
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    target = FrozenTarget.load(request.model, device=request.device)
    with progress_bar() as display:
        return train(
            target,
            request.data,
            request.recipe,
            work=request.work,
            output=request.output,
            cache_bytes=request.cache_bytes,
            report=StageBars(display),
        )


class StageBars:
    """One progress bar a stage, with rate, remaining time and a smoothed loss."""

    def __init__(self, display: Progress) -> None:
        """Draw on `display`."""
        self._display = display
        self._bars: dict[str, TaskID] = {}
        self._losses: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, loss: float | None = None) -> None:
        """Show that `stage` has `done` of `total` behind it."""
        if stage not in self._bars:
            # What earlier runs did does not count towards the rate.
            self._bars[stage] = self._display.add_task(stage, total=total, completed=done)
        label = stage
        if loss is not None:
            smoothed = 0.98 * self._losses.get(stage, loss) + 0.02 * loss
            self._losses[stage] = smoothed
            label = f"{stage}, loss {smoothed:.3f}"
        self._display.update(self._bars[stage], description=label, completed=done)


def default_work_folder(model: str, output: Path) -> Path:
    """Return the folder of features and checkpoints below the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache) if cache else Path.home() / ".cache"
    name = hashlib.sha256(f"{model}\0{output.resolve()}".encode()).hexdigest()[:16]
    return base / "motley" / "train-draft" / name


def _recipe(path: Path | None, *, steps: int | None, layers: int | None) -> "HeadRecipe":
    from planner.documents import read_document
    from serving.draft_training.recipe import HeadRecipe

    recipe = HeadRecipe() if path is None else read_document(path, HeadRecipe)
    changes = {"num_steps": steps, "num_layers": layers}
    return recipe.model_copy(update={k: v for k, v in changes.items() if v is not None})


def _bytes(size: str) -> int:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(size))
    except ValidationError:
        raise typer.BadParameter(
            f"--cache-size {size!r} is no size; write for example 2GiB"
        ) from None


def _show(card: "HeadCard", output: Path) -> None:
    screen = console()
    for depth, share in enumerate(card.acceptance_fractions, start=1):
        chains = card.num_judged[depth - 1]
        screen.print(f"depth {depth}: {share:.1%} of {chains:,} held-out guesses accepted")
    screen.print(f"wrote {output}")
