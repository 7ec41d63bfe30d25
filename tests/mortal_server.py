"""A server of a deployed job that kills itself: `mortal_server.py JOB before|after ROUND`.

The process ends by SIGKILL before or after the checkpoint of that round is written.
"""

import os
import signal
import sys
from pathlib import Path

from finetune.config import JobConfig
from finetune.deployment import server
from finetune.run_folder import RunFolder
from planner.console import configure_logging
from planner.documents import read_document


class MortalFolder(RunFolder):
    """A run folder whose process ends around a checkpoint."""

    def save(self, state, *, base_weights_sha256):
        is_last = state.completed_rounds == int(sys.argv[3])
        if is_last and sys.argv[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        super().save(state, base_weights_sha256=base_weights_sha256)
        if is_last and sys.argv[2] == "after":
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    configure_logging()
    server.RunFolder = MortalFolder
    job = read_document(Path(sys.argv[1]), JobConfig)
    server.run_server(job, folder=job.output, insecure=False)
