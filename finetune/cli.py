"""`motley finetune`: run a job, squeeze and publish its adapter. Parses first, imports torch afterwards."""

from pathlib import Path
from typing import Annotated

import typer

from finetune.deployment.cli import add_commands
from finetune.job_file import read_job
from finetune.local_runs.cli import local_command
from finetune.operation_cli import status_command, stop_command
from finetune.progress import JobProgress, job_progress
from finetune.publish_cli import publish_command
from finetune.run_plots import RunPlots
from finetune.split_cli import split_command
from finetune.squeeze_cli import squeeze_command
from planner.console import configure_logging, output, run_app

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
    go_on: Annotated[
        bool, typer.Option("--go-on", help="Train the other rounds of a run that was stopped.")
    ] = False,
) -> None:
    """Run the federated job in JOB.yaml; run it again to go on after an interruption.

    Example jobs are in configs/finetune/.
    """
    job = read_job(job_file)
    if output_folder is not None:
        job = job.model_copy(update={"output": output_folder})
    configure_logging()

    from finetune.adapters import read_adapter
    from finetune.job import run_job
    from finetune.report import print_result
    from finetune.run_folder import RunFolder

    plots = RunPlots(job.output)
    with job_progress() as progress:
        bar = JobProgress(progress, job, plots)
        manifest = run_job(job, folder=job.output, observer=bar, goes_on=go_on)
        bar.finish()
    plots.draw(manifest)
    for name in job.adapter_names:
        folder = RunFolder(job.output).adapter_of(name)
        print_result(read_adapter(folder), output(), adapter=folder)


app.command("local")(local_command)
app.command("publish")(publish_command)
app.command("status")(status_command)
app.command("stop")(stop_command)
app.command("split")(split_command)
app.command("squeeze")(squeeze_command)
add_commands(app)


@app.command("combinations")
def combinations_command() -> None:
    """Print which parts of a job are refused together, and what is done where others meet."""
    from finetune.compatibility import table

    typer.echo(table(), nl=False)
