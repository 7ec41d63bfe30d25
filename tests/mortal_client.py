"""A client of a deployed sparse job that keeps a book of its uploads, and may kill itself.

`mortal_client.py JOB NAME STATE BOOK [POINT ROUND]`: with a point, the process ends by SIGKILL there,
in the first round that is not below ROUND: `training`, or `written` (its state is on disk, its answer
is not sent).
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np

from finetune.config import JobConfig
from finetune.deployment import client
from finetune.sparsity.kept_clients import KeptClients
from finetune.sparsity.settlement import RECEIPT_FACT
from finetune.wire.message import decode
from planner.console import configure_logging
from planner.documents import read_document

JOB, NAME, STATE, BOOK = (sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
POINT, ROUND = (sys.argv[5], int(sys.argv[6])) if len(sys.argv) > 5 else ("", 0)


def die(point, round_number):
    """End here, if this is the point of the command line."""
    if point == POINT and round_number >= ROUND:
        os.kill(os.getpid(), signal.SIGKILL)


class WitnessedClients(KeptClients):
    """Writes down each upload: what changed, what was sent, what is left over, what was settled."""

    def answer(self, client, download, train):
        number, changes = download.fact("round"), []

        def noted(tensors):
            trained, loss = train(tensors)
            changes.append(self._layout.flat(trained) - self._layout.flat(tensors))
            die("training", number)
            return trained, loss

        upload, loss = super().answer(client, download, noted)
        standing = self._folder.load(client)
        np.savez(
            BOOK / f"{client}-{standing.attempt.number:014x}.npz",
            round=number,
            receipt=download.fact(RECEIPT_FACT),
            change=changes[0],
            sent=decode(upload.data, length=self._layout.length),
            left=standing.attempt.state.residual.vector,
        )
        die("written", number)
        return upload, loss


if __name__ == "__main__":
    configure_logging()
    client.KeptClients = WitnessedClients
    job = read_document(Path(JOB), JobConfig)
    client.run_client(job, name=NAME, insecure=False, state=STATE)
