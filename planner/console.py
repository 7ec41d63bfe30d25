"""The terminal edge every command shares: logging and rich output."""

import logging
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TextIO

import click
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import open as open_watched
from rich.text import Text

_INTERRUPTED = 130


def configure_logging(*, verbose: bool = False) -> None:
    """Send log lines to standard error; called by command lines only."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
        force=True,
    )
    for chatty in ("httpx", "httpcore", "urllib3", "asyncio", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def output() -> Console:
    """Return a console on standard output."""
    return Console(highlight=False)


class _RateColumn(ProgressColumn):
    """Steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


def progress_bar() -> Progress:
    """Return a progress display with count, rate, elapsed and remaining time, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def byte_progress_bar() -> Progress:
    """Return a progress display of bytes with rate and remaining time, on standard error."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def open_with_progress(path: Path) -> AbstractContextManager[TextIO]:
    """Open a text file whose reading shows on standard error, where that is a terminal."""
    console = Console(stderr=True)
    return open_watched(
        path,
        "r",
        encoding="utf-8-sig",
        description=escape(path.name),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def run_app(app: typer.Typer, arguments: list[str], *, name: str) -> None:
    """Run a Typer application so that usage errors reach the caller as exceptions.

    Args:
        app: The application.
        arguments: Words after the subcommand.
        name: How the user called it, for usage lines, such as `motley plan`.

    Raises:
        click.UsageError: On a usage error; it declares its own `exit_code`.
        KeyboardInterrupt: On Ctrl-C, which Typer turns into a status.
        SystemExit: If the command ends with another status than 0.
    """
    command = typer.main.get_command(app)
    try:
        status = command.main(args=arguments, prog_name=name, standalone_mode=False)
    except click.UsageError as error:
        raise click.UsageError(_with_remedy(error)) from None
    if status == _INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise SystemExit(status)


def _with_remedy(error: click.UsageError) -> str:
    """Return the message and what to do; Click says the latter only now and then, we always."""
    message = error.format_message()
    is_ours = isinstance(error, click.BadParameter) and error.param is None
    if is_ours or error.ctx is None or message.endswith("?"):
        return message
    command = error.ctx.command
    if isinstance(command, click.Group):
        remedy = f"use one of: {', '.join(command.list_commands(error.ctx))}"
    else:
        remedy = f"see `{error.ctx.command_path} --help`"
    return f"{message.rstrip('.')}; {remedy}"
