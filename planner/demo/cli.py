"""`motley demo`: the whole of Motley on one machine, in under four minutes."""

import shutil
import signal
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from planner.console import output, run_app
from planner.errors import DemoError
from planner.loopback import ensure_loopback

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def run(arguments: list[str]) -> None:
    """Run `motley demo`."""
    run_app(app, arguments, name="motley demo")


@app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Option("--output", help="New folder that keeps logs, plan and adapter."),
    ] = None,
    models: Annotated[
        Path | None, typer.Option(help="Folder with `target` and `draft`; default: the shipped.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the endpoint up until Ctrl-C.")
    ] = False,
) -> None:
    """Plan a fleet, serve and route a small model, fine-tune it federatedly, publish, ask again."""
    from planner.demo.places import check_models, shipped_models
    from planner.demo.tour import Tour

    ensure_loopback()
    # Children have sessions of their own: a demo that is ended must end them first.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    family = check_models(models) if models else shipped_models()
    if folder is not None:
        _make(folder)
        Tour(family, folder, output()).run(keep=keep)
        return
    temporary = Path(tempfile.mkdtemp(prefix="motley-demo-"))
    try:
        Tour(family, temporary, output()).run(keep=keep)
    except DemoError:
        raise  # the message names a log in the folder
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(temporary)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        from planner.errors import DocumentError

        raise DocumentError(
            folder, f"cannot be made ({error.strerror}); name a new folder"
        ) from None
