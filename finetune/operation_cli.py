"""`motley finetune status` and `stop`: a run seen, and ended in order, from its folder."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from finetune.errors import RunFolderError
from finetune.held_out import mean_losses, worst_domain
from finetune.progress import size_text, time_text
from finetune.run_lock import ask_to_stop, is_asked, is_locked
from finetune.run_status import RunState, RunStatus, run_status
from planner.console import output

_POLL_SECONDS = 0.5
_Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="The run folder of a job.")]

NEXT = {
    RunState.STOPPED: "`motley finetune run JOB.yaml --go-on` (or `server`) trains the other rounds",
    RunState.INTERRUPTED: "run the job again to go on",
}
"""What to do about a run that does nothing."""


def status_command(
    folder: _Folder,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say where the run in FOLDER stands: rounds, losses, bytes, refusals, time left."""
    status = run_status(folder)
    if json:
        typer.echo(status.model_dump_json(indent=2))
        return
    print_status(status, output())


def stop_command(
    folder: _Folder,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the run has ended, and say how.")
    ] = False,
) -> None:
    """Let the run in FOLDER finish its round, judge its adapter and write it; works for `server` too."""
    status = run_status(folder)
    console = output()
    if status.state in (RunState.FINISHED, RunState.STOPPED):
        console.print(f"{folder}: is {status.state} already; nothing to stop", soft_wrap=True)
        return
    if status.state is RunState.INTERRUPTED:
        raise RunFolderError(
            folder,
            f"no run is going on in it ({status.completed_rounds} of {status.num_rounds} rounds "
            f"are saved); {NEXT[status.state]}",
        )
    ask_to_stop(folder)
    console.print(f"{folder}: asked to stop after its round", soft_wrap=True)
    if not wait:
        return
    while is_locked(folder):
        if not is_asked(folder):  # another run began as the first one ended
            ask_to_stop(folder)
        time.sleep(_POLL_SECONDS)
    status = run_status(folder)
    if status.state not in (RunState.FINISHED, RunState.STOPPED):
        raise RunFolderError(
            folder, f"the run ended without an adapter; {NEXT[RunState.INTERRUPTED]}"
        )
    print_status(status, console)


def print_status(status: RunStatus, console: Console) -> None:
    """Print where a run stands as a table."""
    table = Table(show_header=False, box=None)
    state = f"{status.state}; {NEXT[status.state]}" if status.state in NEXT else f"{status.state}"
    table.add_row("state", state)
    table.add_row("job", f"{status.job}, clients: {', '.join(status.clients)}")
    table.add_row("rounds", f"{status.completed_rounds} of {status.num_rounds} saved")
    if status.training_loss is not None:
        table.add_row("training loss", f"{status.training_loss:.4f} nats a token")
    if (text := _held_out_text(status)) is not None:
        table.add_row("held-out loss", text)
    down, up = size_text(status.download_bytes), size_text(status.upload_bytes)
    table.add_row("bytes in rounds", f"{down} down, {up} up")
    refused = ", ".join(f"{client} {count}" for client, count in status.refusals.items())
    table.add_row("refused updates", refused or "none")
    for client, reason in status.last_refusals.items():
        table.add_row("", f"{client}: {reason}")
    table.add_row("time in rounds", time_text(status.seconds))
    if status.seconds_left is not None:
        table.add_row("time left", f"about {time_text(status.seconds_left)}")
    for adapter in status.adapters.values():
        table.add_row("adapter", str(adapter))
    console.print(table, soft_wrap=True)


def _held_out_text(status: RunStatus) -> str | None:
    """Return the newest losses on held-out text: the result's, or those that a round began with."""
    if status.result:
        mean, worst = mean_losses(status.result), worst_domain(status.result)
        change = worst.adapter_loss - worst.base_loss
        return (
            f"mean {mean.adapter_loss:.4f}, worst {worst.name} {change:+.4f} against the base model"
        )
    held_out = status.held_out
    if held_out is None or held_out.mean is None:
        return None
    text = f"mean {held_out.mean:.4f} as the last judged round began"
    if held_out.worst is None or held_out.worst_change is None:
        return text
    return f"{text}, worst {held_out.worst} {held_out.worst_change:+.4f} against the base model"
