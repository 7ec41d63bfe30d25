"""Where a run stands, from its folder alone; the run itself is not asked and not held up."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from finetune.adapters import ClientLosses, Manifest, read_adapter
from finetune.config import JobConfig
from finetune.errors import RunFolderError
from finetune.history import (
    HeldOutLine,
    RoundLine,
    download_bytes,
    read_history,
    seconds_left,
    upload_bytes,
)
from finetune.run_lock import is_asked, is_locked
from planner.config import StrictModel
from planner.documents import read_document

if TYPE_CHECKING:
    from finetune.run_folder import RunFolder


class RunState(StrEnum):
    """What a run does."""

    RUNNING = "running"
    STOPPING = "stopping"
    """It was asked to stop and ends with its round."""
    STOPPED = "stopped"
    """It was asked to and has: its adapter is of fewer rounds than the job's."""
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    """No process is at it, and there is no adapter yet: run the job again."""


class RunStatus(StrictModel):
    """Where a run stands; what `motley finetune status --json` prints."""

    schema_version: Literal[1] = 1
    """Version of this document's form."""
    state: RunState
    """What it does."""
    job: str
    """Name of the job."""
    num_rounds: int
    """Rounds of the job; of one that a scheduler runs, its versions of all adapters."""
    completed_rounds: int
    """Rounds in `metrics.jsonl`; a run that is killed as it writes may train the last one again."""
    clients: tuple[str, ...]
    """Clients of the job."""
    training_loss: float | None
    """Plain mean over clients in the last round, nats a token."""
    held_out: HeldOutLine | None
    """The last judgement by the clients in a round: of the adapter that the round began with."""
    download_bytes: int
    """To the clients, in rounds."""
    upload_bytes: int
    """From the clients, in rounds."""
    refusals: dict[str, int]
    """Replies that did not count, by client, or node where the reply does not say."""
    last_refusals: dict[str, str]
    """Reasons in the last round."""
    seconds: float
    """Time spent in rounds."""
    seconds_left: float | None
    """Time for the other rounds at the median of those so far; null where none goes on."""
    rank: int | None
    """Of the adapter that the last round trained."""
    adapters: dict[str, Path]
    """The results' folders by name; that of a job's only one is ""."""
    result: tuple[ClientLosses, ...]
    """The results' losses by client, of several adapters by ADAPTER/CLIENT."""


def run_status(folder: Path) -> RunStatus:
    """Return where the run in a folder stands.

    Raises:
        FinetuneError: If the folder holds no run, or a damaged one.
        DocumentError: If its job is of another version.
    """
    try:
        return _run_status(folder)
    except OSError as error:
        raise RunFolderError(
            folder, f"cannot be read ({error.strerror}); ask its owner, or check the path"
        ) from None


def _run_status(folder: Path) -> RunStatus:
    if not (folder / "job.json").is_file():
        raise RunFolderError(folder, "holds no run; name the `output` of a job")
    job = read_document(folder / "job.json", JobConfig)
    # In this order: a run that ends in between is told as it was a moment ago, or as finished.
    state = RunState.INTERRUPTED
    if is_locked(folder):
        state = RunState.STOPPING if is_asked(folder) else RunState.RUNNING
    from finetune.run_folder import RunFolder  # imports what the command line does without

    history = read_history(folder)
    run = RunFolder(folder)
    results = _results(run, job)
    if results:
        is_whole = all(result.rounds >= job.rounds for result in results.values())
        state = RunState.FINISHED if is_whole else RunState.STOPPED
    goes_on = state in (RunState.RUNNING, RunState.STOPPING)
    num_rounds = job.num_versions
    if state is RunState.STOPPING and history:
        num_rounds = min(history[-1].round + 1, num_rounds)
    return RunStatus(
        state=state,
        job=job.name,
        num_rounds=job.num_versions,
        completed_rounds=len(history),
        clients=tuple(client.name for client in job.clients),
        training_loss=history[-1].mean_loss if history else None,
        held_out=_last_judged(history),
        download_bytes=download_bytes(history),
        upload_bytes=upload_bytes(history),
        refusals=_counts(history),
        last_refusals=history[-1].refused if history else {},
        seconds=sum(line.seconds for line in history),
        seconds_left=seconds_left(history, num_rounds=num_rounds) if goes_on else None,
        rank=history[-1].rank if history else None,
        adapters={name: run.adapter_of(name) for name in results},
        result=tuple(
            losses.model_copy(update={"name": f"{name}/{losses.name}"}) if name else losses
            for name, result in results.items()
            for losses in result.clients
        ),
    )


def _results(run: "RunFolder", job: JobConfig) -> dict[str, Manifest]:
    """Return the manifests of all of the job's adapters, or none where one is not written yet."""
    if not run.is_finished(job):
        return {}
    return {name: read_adapter(run.adapter_of(name)) for name in job.adapter_names}


def _last_judged(history: list[RoundLine]) -> HeldOutLine | None:
    return next((line.held_out for line in reversed(history) if line.held_out.loss), None)


def _counts(history: list[RoundLine]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for line in history:
        for client in line.refused:
            counts[client] = counts.get(client, 0) + 1
    return counts
