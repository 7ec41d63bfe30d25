"""`motley finetune`: run a job, squeeze and publish its adapter. Parses first, imports torch afterwards."""

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from finetune.config import JobConfig
from finetune.deployment.cli import add_commands
from finetune.errors import FinetuneError
from finetune.squeeze_cli import squeeze_command
from planner.console import byte_progress_bar, configure_logging, output, progress_bar, run_app
from planner.documents import read_document
from planner.key_file import is_key, read_key

KEY_VARIABLE = "MOTLEY_API_KEY"
"""Environment variable with the key that is sent."""

app = typer.Typer(
    help="Train one LoRA adapter over private text in several places.",
    add_completion=False,
)


def run(arguments: list[str]) -> None:
    """Run `motley finetune` with the words after it."""
    run_app(app, arguments, name="motley finetune")


@app.command("run")
def run_command(
    job_file: Annotated[
        Path, typer.Argument(metavar="JOB.yaml", help="The job; see configs/finetune/.")
    ],
    output_folder: Annotated[
        Path | None,
        typer.Option("--output", help="Run folder, in place of the job's `output`."),
    ] = None,
) -> None:
    """Run the federated job in JOB.yaml; run it again to go on after an interruption.

    Example jobs are in configs/finetune/.
    """
    job = read_document(job_file, JobConfig)
    if output_folder is not None:
        job = job.model_copy(update={"output": output_folder})
    configure_logging()

    from finetune.job import run_job
    from finetune.report import loss_table

    with progress_bar() as progress:
        bar = _Bar(progress, job)
        manifest = run_job(job, folder=job.output, observer=bar)
        bar.finish()
    console = output()
    console.print(loss_table(manifest))
    console.print(f"adapter: {job.output / 'adapter'}", soft_wrap=True)


@app.command("publish")
def publish_command(
    adapter_folder: Annotated[
        Path, typer.Argument(metavar="ADAPTER_FOLDER", help="The `adapter` folder of a run.")
    ],
    endpoint: Annotated[str, typer.Option(help="Serving endpoint, http://HOST:PORT.")],
    name: Annotated[str, typer.Option(help="Model name the adapter shall answer under.")],
    upload: Annotated[
        bool | None,
        typer.Option(
            "--upload/--by-path",
            help="Send the files, in place of an adapter of that name; or have the endpoint read the "
            "folder. Default: sent to other machines. A router here may have replicas elsewhere: "
            "give --upload.",
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model it is for, where a router serves several.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is an admin key; or set MOTLEY_API_KEY."),
    ] = None,
) -> None:
    """Load a finished run's ADAPTER_FOLDER into a running endpoint, or behind a router into all."""
    from finetune.publish import publish

    configure_logging()
    with byte_progress_bar() as progress:
        bar = _ByteBar(progress)
        publish(
            adapter_folder,
            endpoint=endpoint,
            name=name,
            is_sent=upload,
            model=model,
            key=_key(api_key_file),
            watch=bar.watch,
        )
    output().print(f"{endpoint} answers under the model name {name!r}", soft_wrap=True)


app.command("squeeze")(squeeze_command)
add_commands(app)


def _key(file: Path | None) -> str | None:
    """Return the key of the file, or else of the environment: never of the command's words."""
    if file is not None:
        return read_key(file)
    word = os.environ.get(KEY_VARIABLE, "").strip()
    if word and not is_key(word):
        raise FinetuneError(f"{KEY_VARIABLE} holds white space or non-ASCII; change it")
    return word or None


class _ByteBar:
    """Shows an upload: bytes while they go, then that the endpoint is waited for."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def watch(self, sent: int, total: int) -> None:
        if self._task is None:
            self._task = self._progress.add_task("sending", total=total)
        text = "sending" if sent < total else "sent, loading"
        self._progress.update(self._task, completed=sent, description=text)


class _Bar:
    """Shows a job: local steps of all clients, with round, loss and remaining time."""

    def __init__(self, progress: Progress, job: JobConfig) -> None:
        self._progress = progress
        self._num_rounds = job.rounds
        self._steps_per_round = job.local_steps * len(job.clients)
        self._task: TaskID | None = None
        self._round = 0
        self._phase = progress.add_task("starting", total=None)

    def phase(self, text: str) -> None:
        self._progress.update(self._phase, description=text, visible=True)

    def finish(self) -> None:
        self._progress.update(self._phase, visible=False)

    def step(self, round_number: int, loss: float) -> None:
        console = self._progress.console
        if not console.is_terminal and round_number != self._round:
            # A bar that nobody sees move: one line a round says that it does.
            console.print(f"round {round_number}/{self._num_rounds} began, loss {loss:.3f}")
        self._round = round_number
        self._progress.update(self._phase, visible=False)
        if self._task is None:
            # A resumed run starts where the earlier one stopped.
            self._task = self._progress.add_task(
                "training",
                total=self._num_rounds * self._steps_per_round,
                completed=(round_number - 1) * self._steps_per_round,
            )
        text = f"round {round_number}/{self._num_rounds}  loss {loss:.3f}"
        self._progress.update(self._task, advance=1, description=text)
