"""`motley finetune local`: one job, one process group."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from finetune.errors import LocalRunError
from finetune.local_runs.launch import end_with_starter, is_launched, launch
from finetune.local_runs.local_job import LocalJob, read_local_job
from planner.console import configure_logging, output, progress_bar
from planner.documents import check_writable, write_atomically


def local_command(
    job_file: Annotated[
        Path, typer.Argument(metavar="JOB.yaml", help="The job; see configs/local/.")
    ],
    output_folder: Annotated[
        Path | None,
        typer.Option("--output", help="Run folder, in place of the job's `output`."),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Start so many on this machine, one a device. Under torchrun or `accelerate "
            "launch`: leave it out.",
        ),
    ] = None,
    lengths: Annotated[
        Path | None,
        typer.Option(
            help="Write the lengths of all steps' sequences, for `motley plan training`, and end."
        ),
    ] = None,
) -> None:
    """Fine-tune by one process group; run it again to go on after an interruption.

    Each step's groups of processes are planned from the lengths of its documents while the step
    before it trains. Example jobs are in configs/local/.
    """
    end_with_starter()
    job = read_local_job(job_file)
    if output_folder is not None:
        job = job.model_copy(update={"output": output_folder})
    if lengths is not None:
        _write_lengths(job, lengths)
    elif processes is not None:
        if is_launched():
            raise LocalRunError(
                f"--processes {processes}: a launcher has started this process already; leave it out"
            )
        words = ["finetune", "local", str(job_file), "--output", str(job.output)]
        launch(words, num_processes=processes)
    else:
        _run(job)


def _run(job: LocalJob) -> None:
    """Train as this process's rank."""
    configure_logging()
    is_first = _is_first(os.environ)
    if not is_first:  # rank 0 says what all do
        logging.getLogger().setLevel(logging.WARNING)

    from finetune.local_runs.local_folder import LocalFolder
    from finetune.local_runs.local_progress import LocalProgress, Unwatched
    from finetune.local_runs.local_report import print_local_result
    from finetune.local_runs.loss_plot import LossPlot
    from finetune.local_runs.ranks import joined_ranks
    from finetune.local_runs.run_local import run_local

    if not is_first:
        with joined_ranks(job.device) as ranks:
            run_local(job, folder=job.output, ranks=ranks, observer=Unwatched())
        return
    plot = LossPlot(job.output)
    with progress_bar() as progress:
        bar = LocalProgress(progress, plot)
        with joined_ranks(job.device) as ranks:
            result = run_local(job, folder=job.output, ranks=ranks, observer=bar)
        bar.finish()
    run = LocalFolder(job.output)
    plot.draw(run.history(), result)
    print_local_result(result, output(), folder=run.result_of(job))


def _is_first(environment: Mapping[str, str]) -> bool:
    """Return whether this process is rank 0 by any launcher's words, mpirun's among them."""
    from finetune.sequence_parallel.distributed import launch_of

    found = launch_of(environment)
    return found is None or found.rank == 0


def _write_lengths(job: LocalJob, path: Path) -> None:
    check_writable(path)
    configure_logging()

    from finetune.local_runs.step_lengths import step_lengths

    found = step_lengths(job)
    write_atomically(path, "".join(f"{length}\n" for length in found))
    typer.echo(f"lengths of {len(found)} sequences, batches of {job.batch_size}: {path}")
