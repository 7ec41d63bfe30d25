"""A run on disk: the resolved job, the checkpoint, one metrics line a round, the adapter."""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from finetune.adapters import read_adapter
from finetune.config import JobConfig
from finetune.errors import RunFolderError
from finetune.history import METRICS_FILE, RoundLine, read_history
from finetune.private_file import write_privately
from finetune.rounds import FederationState, RoundRecord
from finetune.run_lock import LOCK_FILE, asked_token, begin_requests, take_lock
from finetune.scheduled_rounds import memory as schedule_memory
from finetune.scheduled_rounds.memory import ScheduleHeader
from finetune.sparsity.memory import MemoryHeader, from_parts, to_parts
from finetune.traffic import Totals
from finetune.updates import Evaluation, Refusal, Tensors
from planner.config import StrictModel
from planner.documents import read_document, write_atomically

logger = logging.getLogger(__name__)

_DECIDE_NOTHING = ("output", "deployment", "judge_every")
"""Keys of a job that may change within a run: it may be moved, met elsewhere, and watched."""

_MEMORY = "memory/"
_SCHEDULE = "schedule/"
"""Begin the names of arrays that are no tensors of the adapter."""


class CheckpointHeader(StrictModel):
    """What a checkpoint holds beside the tensors; stands in the file's own metadata."""

    schema_version: Literal[1] = 1
    """Version of the checkpoint's form."""
    completed_rounds: int
    """Rounds that are in the tensors."""
    num_refused: int
    """Updates refused so far."""
    base_weights_sha256: str
    """Digest of the base model the run began with."""
    base_losses: tuple[tuple[str, float, int], ...]
    """Client, held-out loss of the base model, tokens scored."""
    memory: MemoryHeader | None = None
    """What the ends of a sparse job remember; its arrays stand beside the adapter's."""
    refusals: tuple[tuple[str, str, int, int], ...] = ()
    """Client, reason, bytes and node of the updates that the last round refused."""
    totals: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Bytes so far: `traffic.Totals`."""
    schedule: ScheduleHeader | None = None
    """What a scheduled job remembers; its arrays stand beside the adapter's."""


class RunFolder:
    """Reads and writes one run; every write leaves the old content or the new one."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is touched yet."""
        self.folder = folder
        self.adapter = folder / "adapter"
        self._adapters = folder / "adapters"
        self._lock = folder / LOCK_FILE
        self._job = folder / "job.json"
        self._checkpoint = folder / "checkpoint.safetensors"
        self._metrics = folder / METRICS_FILE
        self._token: str | None = None

    def adapter_of(self, name: str) -> Path:
        """Return the folder of an adapter by its name; that of a job's only one is ""."""
        return self._adapters / name if name else self.adapter

    def is_finished(self, job: JobConfig) -> bool:
        """Return whether all of the job's adapters are written."""
        return all(self.adapter_of(name).exists() for name in job.adapter_names)

    def check(self, job: JobConfig) -> None:
        """Check that the folder is free, or holds a run of this same job.

        Raises:
            RunFolderError: If it holds another job's run, or files of something else, or a run of
                this job that is going on.
        """
        self._check_content(job)
        if self._lock.exists():
            os.close(take_lock(self.folder))

    def _check_content(self, job: JobConfig) -> None:
        if self._job.exists():
            earlier = read_document(self._job, JobConfig)
            changed = _differences(earlier, job)
            if changed:
                raise RunFolderError(
                    self.folder,
                    f"holds a run of another job (differs in {', '.join(changed)}); "
                    "choose another folder with --output",
                )
        elif self.folder.exists() and not self.folder.is_dir():
            raise RunFolderError(self.folder, "is no folder; choose another with --output")
        elif self.folder.exists() and any(map(self._is_content, self.folder.iterdir())):
            raise RunFolderError(
                self.folder, "is not empty and holds no run; choose another with --output"
            )

    def _is_content(self, path: Path) -> bool:
        # A process that was killed while it wrote the job leaves the lock and a temporary file.
        return path != self._lock and not path.name.startswith(f".{self._job.name}.")

    @contextmanager
    def started(self, job: JobConfig) -> Iterator[None]:
        """Hold the folder for this process alone: make it, and write the resolved job.

        Raises:
            RunFolderError: If the folder cannot be made, or another process was faster.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(
                self.folder, f"cannot be made ({error.strerror}); choose another with --output"
            ) from None
        lock = take_lock(self.folder)
        try:
            self._check_content(job)
            self._token = begin_requests(self.folder, lock)
            self._remove_leftovers(job)
            if not self._job.exists():
                write_atomically(self._job, job.model_dump_json(indent=2) + "\n")
            if job.adapters:
                self._adapters.mkdir(exist_ok=True)
            yield
        finally:
            self._token = None
            os.close(lock)

    def history(self) -> list[RoundLine]:
        """Return the rounds in `metrics.jsonl`; after `load`, those of the state that it returned.

        Raises:
            RunFolderError: If a line is malformed.
        """
        return read_history(self.folder)

    def set_adapters_aside(self, job: JobConfig) -> None:
        """Rename the adapters of a run that was stopped and now goes on, if there are any.

        Raises:
            FinetuneError: If it is damaged, or its new name is taken.
        """
        for adapter in map(self.adapter_of, job.adapter_names):
            if not adapter.exists() or (rounds := read_adapter(adapter).rounds) >= job.rounds:
                continue
            aside = adapter.with_name(f"{adapter.name}-after-{rounds}-rounds")
            if aside.exists():
                if read_adapter(aside).adapter_sha256 != read_adapter(adapter).adapter_sha256:
                    raise RunFolderError(
                        aside, "is in the way of the adapter so far; move it elsewhere"
                    )
                shutil.rmtree(aside)  # an adapter that has gained no version since
            adapter.rename(aside)
            logger.info("adapter set aside folder=%s", aside)

    def is_stop_asked(self) -> bool:
        """Return whether the run of this process has been asked to stop after its round."""
        return self._token is not None and asked_token(self.folder) == self._token

    def _remove_leftovers(self, job: JobConfig) -> None:
        """Remove what killed processes had not renamed yet; nobody else has the lock."""
        adapters = [self.adapter_of(name) for name in job.adapter_names]
        for written in (self._job, self._checkpoint, self._metrics, *adapters):
            for path in written.parent.glob(f".{written.name}.*"):
                logger.info("leftover removed path=%s", path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def load(self, *, base_weights_sha256: str) -> FederationState | None:
        """Return the last saved state, or None; drop metrics of rounds it does not hold.

        Raises:
            RunFolderError: If the checkpoint is damaged or was begun on other base weights.
        """
        if not self._checkpoint.exists():
            self._keep_metrics(0)
            return None
        try:
            with safe_open(self._checkpoint, framework="numpy") as file:
                header = CheckpointHeader.model_validate_json((file.metadata() or {})["header"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            rest, remembered = _split(arrays, _MEMORY)
            tensors, scheduled = _split(rest, _SCHEDULE)
            memory = None if header.memory is None else from_parts(header.memory, remembered)
            schedule = None
            if header.schedule is not None:
                schedule = schedule_memory.from_parts(header.schedule, scheduled)
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise RunFolderError(
                self.folder, f"the checkpoint is damaged ({type(error).__name__}); start a new run"
            ) from None
        if header.base_weights_sha256 != base_weights_sha256:
            raise RunFolderError(
                self.folder, "began on other base weights; bring them back or start a new run"
            )
        self._keep_metrics(header.completed_rounds)
        return FederationState(
            completed_rounds=header.completed_rounds,
            tensors=tensors,
            base_losses=tuple(Evaluation(*values) for values in header.base_losses),
            num_refused=header.num_refused,
            memory=memory,
            refusals=tuple(Refusal(*values) for values in header.refusals),
            totals=Totals(*header.totals),
            schedule=schedule,
        )

    def save(self, state: FederationState, *, base_weights_sha256: str) -> None:
        """Replace the checkpoint by `state`."""
        memory, remembered = (None, {}) if state.memory is None else to_parts(state.memory)
        schedule, scheduled = None, dict[str, NDArray[np.float32]]()
        if state.schedule is not None:
            schedule, scheduled = schedule_memory.to_parts(state.schedule)
        header = CheckpointHeader(
            completed_rounds=state.completed_rounds,
            num_refused=state.num_refused,
            base_weights_sha256=base_weights_sha256,
            base_losses=tuple(
                (loss.client, loss.loss, loss.num_tokens) for loss in state.base_losses
            ),
            memory=memory,
            refusals=tuple(astuple(refusal) for refusal in state.refusals),
            totals=astuple(state.totals),
            schedule=schedule,
        )
        arrays = dict(state.tensors) | {_MEMORY + name: a for name, a in remembered.items()}
        arrays |= {_SCHEDULE + name: a for name, a in scheduled.items()}
        data = save(arrays, metadata={"header": header.model_dump_json()})
        # What clients did not send yet is made of their text: nobody else reads it.
        write_privately(self._checkpoint, data)

    def append_metrics(self, record: RoundRecord) -> None:
        """Add one line; to be called before the round is saved, see `load`.

        Raises:
            RunFolderError: If the disk does not take it.
        """
        try:
            with self._metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(record)) + "\n")
        except OSError as error:
            raise RunFolderError(
                self.folder, f"cannot be written ({error.strerror}); make room and run again"
            ) from None

    def _keep_metrics(self, num_rounds: int) -> None:
        """Drop the lines of rounds that were not saved, or that an interruption cut short."""
        if self._metrics.exists():
            lines = self._metrics.read_text(encoding="utf-8").splitlines()[:num_rounds]
            write_atomically(self._metrics, "".join(f"{line}\n" for line in lines))


def _split(arrays: Tensors, prefix: str) -> tuple[Tensors, Tensors]:
    """Return the arrays whose names do not begin with a prefix, and the others without it."""
    own = {name: a for name, a in arrays.items() if not name.startswith(prefix)}
    others = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    return own, others


def _differences(earlier: JobConfig, job: JobConfig) -> list[str]:
    return [
        name
        for name in JobConfig.model_fields
        if name not in _DECIDE_NOTHING and getattr(earlier, name) != getattr(job, name)
    ]
