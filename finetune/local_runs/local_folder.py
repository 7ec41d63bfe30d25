"""A local run on disk: its job, the plans and metrics of its steps, the checkpoint, the result.

Rank 0 alone reads and writes it.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from finetune.errors import RunFolderError
from finetune.local_runs.local_job import LocalJob, differences, planning_digests
from finetune.local_runs.plan_journal import append_line, whole_lines
from finetune.run_lock import LOCK_FILE, take_lock
from planner.config import StrictModel
from planner.documents import read_document, write_atomically
from planner.training.calibration import GroupMeasurement

logger = logging.getLogger(__name__)

RUN_FILE = "local-run.json"
METRICS_FILE = "metrics.jsonl"
TIMINGS_FILE = "steps.jsonl"
RESULT_FILE = "result.json"


class RunDocument(StrictModel):
    """`local-run.json`: what the run is of."""

    schema_version: Literal[1] = 1
    """Version of this file's form."""
    job: LocalJob
    """The job."""
    num_processes: int
    """Processes that train it; its plans are for so many."""
    planning_sha256: dict[str, str]
    """Digests of the files that its steps are planned by, hexadecimal, by the job's keys."""


class StepLine(StrictModel):
    """A line of `metrics.jsonl`: one optimiser step."""

    step: int
    """Counts from 1."""
    loss: float
    """Before the step, nats for each predicted token of its batch."""
    tokens: int
    """Tokens of the batch."""
    learning_rate: float
    """AdamW's."""
    gradient_norm: float
    """Before it was bounded."""
    num_micro_batches: int
    """Of the plan."""
    predicted_seconds: float
    """By the plan: forward, backward and exchanges."""
    seconds: float
    """The whole step, from the plan to the changed weights."""
    planning_seconds: float
    """How long the plan was made, while an earlier step trained."""
    waited_seconds: float
    """How long the step waited for it."""


class LocalResult(StrictModel):
    """`result.json`: what a finished run gave."""

    schema_version: Literal[1] = 1
    """Version of this file's form."""
    result: Literal["adapter", "model"]
    """Folder of the result, in the run folder."""
    steps: int
    """Optimiser steps."""
    held_out_tokens: int
    """Tokens predicted to judge it."""
    base_loss: float
    """Held-out loss of the base model, nats a token."""
    loss: float
    """Held-out loss of the result, nats a token."""
    num_dropped_empty: int = 0
    """Documents left out because they hold nothing to predict."""
    num_dropped_long: int = 0
    """Documents left out because they are longer than `max_tokens`."""
    num_cut: int = 0
    """Documents cut behind `max_tokens`."""


class LocalFolder:
    """Reads and writes one run; every write leaves the old content or the new one."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is touched yet."""
        self.folder = folder
        self.checkpoint = folder / "checkpoint.safetensors"
        self._run = folder / RUN_FILE
        self._metrics = folder / METRICS_FILE
        self._timings = folder / TIMINGS_FILE
        self._result = folder / RESULT_FILE

    def result_of(self, job: LocalJob) -> Path:
        """Return the folder of a job's result."""
        return self.folder / ("model" if job.adapter is None else "adapter")

    def check(self, job: LocalJob, *, num_processes: int) -> None:
        """Check that the folder is free, or holds a run of this job by as many processes.

        Raises:
            RunFolderError: If it holds something else, or a file that steps are planned by changed.
            DocumentError: If such a file cannot be read.
        """
        if self._run.exists():
            earlier = read_document(self._run, RunDocument)
            if changed := differences(earlier.job, job):
                raise RunFolderError(
                    self.folder,
                    f"holds a run of another job (differs in {', '.join(changed)}); "
                    "choose another folder with --output",
                )
            if not self._result.exists():
                self._check_unfinished(earlier, job, num_processes=num_processes)
        elif self.folder.exists() and not self.folder.is_dir():
            raise RunFolderError(self.folder, "is no folder; choose another with --output")
        elif self.folder.exists() and any(map(self._is_content, self.folder.iterdir())):
            raise RunFolderError(
                self.folder, "is not empty and holds no local run; choose another with --output"
            )

    def _check_unfinished(self, earlier: RunDocument, job: LocalJob, *, num_processes: int) -> None:
        if earlier.num_processes != num_processes:
            raise RunFolderError(
                self.folder,
                f"holds a run of {earlier.num_processes} processes and this is one of "
                f"{num_processes}; start {earlier.num_processes}, or choose another folder "
                "with --output",
            )
        for key, digest in planning_digests(job).items():
            if earlier.planning_sha256.get(key) != digest:
                raise RunFolderError(
                    self.folder,
                    f"holds a run that began with another {key} ({getattr(job, key)} has changed); "
                    "bring that back, or choose another folder with --output",
                )

    def _is_content(self, path: Path) -> bool:
        # A process that was killed while it wrote the job leaves the lock and a temporary file.
        return path.name != LOCK_FILE and not path.name.startswith(f".{RUN_FILE}.")

    @contextmanager
    def held(self, job: LocalJob, *, num_processes: int) -> Iterator[None]:
        """Hold the folder for this run alone: make it, and write what it is of.

        Raises:
            RunFolderError: If it cannot be made or holds something else, or a run is going on in it.
            DocumentError: If a file that steps are planned by cannot be read.
        """
        self.check(job, num_processes=num_processes)
        document = RunDocument(
            job=job, num_processes=num_processes, planning_sha256=planning_digests(job)
        )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                self.folder, f"cannot be made ({error.strerror}); choose another with --output"
            ) from None
        lock = take_lock(self.folder)
        try:
            self.check(job, num_processes=num_processes)
            self._remove_leftovers(job)
            if not self._run.exists():
                write_atomically(self._run, document.model_dump_json(indent=2) + "\n")
            yield
        finally:
            os.close(lock)

    def _remove_leftovers(self, job: LocalJob) -> None:
        """Remove what killed processes had not renamed yet; nobody else has the lock."""
        for written in (
            self._run,
            self.checkpoint,
            self._metrics,
            self._result,
            self.result_of(job),
        ):
            for path in self.folder.glob(f".{written.name}.*"):
                logger.info("leftover removed path=%s", path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def result(self) -> LocalResult | None:
        """Return what the run gave, None of one that is not finished."""
        return read_document(self._result, LocalResult) if self._result.exists() else None

    def finish(self, result: LocalResult) -> None:
        """Write what the run gave, after the result itself."""
        write_atomically(self._result, result.model_dump_json(indent=2) + "\n")

    def history(self) -> list[StepLine]:
        """Return the steps so far.

        Raises:
            RunFolderError: If a line is malformed.
        """
        try:
            return [StepLine.model_validate_json(line) for line in whole_lines(self._metrics)]
        except ValidationError:
            raise RunFolderError(
                self.folder, f"{METRICS_FILE} is damaged; start a new run"
            ) from None

    def keep_history(self, num_steps: int) -> None:
        """Drop the lines of steps that no checkpoint holds, or that an interruption cut short."""
        whole_lines(self._timings)
        lines = whole_lines(self._metrics)
        if len(lines) > num_steps:
            kept = "".join(f"{line}\n" for line in lines[:num_steps])
            write_atomically(self._metrics, kept)

    def append(self, line: StepLine, groups: Sequence[GroupMeasurement]) -> None:
        """Add a step, before it is in a checkpoint, and what its groups took.

        Raises:
            RunFolderError: If the disk does not take it.
        """
        append_line(self._timings, "\n".join(group.model_dump_json() for group in groups))
        append_line(self._metrics, line.model_dump_json())
