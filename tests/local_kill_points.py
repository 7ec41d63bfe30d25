"""A local run killed before each of its durable writes, each time in a folder of its own.

    python -m local_kill_points JOB.yaml FOLDER

As `kill_points`, of `motley finetune local` in one process.
"""

import os
import signal
import sys
from itertools import count
from pathlib import Path

import torch
from kill_points import KillPoints

from finetune.local_runs.local_job import LocalJob, read_local_job
from finetune.local_runs.local_progress import Unwatched
from finetune.local_runs.ranks import Alone
from finetune.local_runs.run_local import run_local


def is_killed(job: LocalJob, folder: Path, kill_before: int) -> bool:
    """Run the job in a process of its own; return whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        try:
            KillPoints(folder, kill_before).wrap()
            run_local(job, folder=folder, ranks=Alone(torch.device("cpu")), observer=Unwatched())
        except BaseException:  # noqa: BLE001 - a fork must not go on as the process it came from
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, f"the job of {folder} failed"
    return False


def main(job_file: Path, folder: Path) -> None:
    """Kill the job before its first durable write, its second, and so on until it ends."""
    torch.set_num_threads(1)
    job = read_local_job(job_file)
    for number in count(1):
        if not is_killed(job, folder / str(number), number):
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
