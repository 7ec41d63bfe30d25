"""A run on disk: the resolved job, the checkpoint, one metrics line a round, the adapter."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, astuple
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from finetune.config import JobConfig
from finetune.errors import RunFolderError
from finetune.rounds import FederationState, RoundRecord
from finetune.sparsity.memory import MemoryHeader, from_parts, to_parts
from finetune.updates import Evaluation, Refusal, Tensors
from planner.config import StrictModel
from planner.documents import read_document, write_atomically

_MEMORY = "memory/"
"""Begins the names of arrays that are no tensors of the adapter."""


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


class RunFolder:
    """Reads and writes one run; every write leaves the old content or the new one."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is touched yet."""
        self.folder = folder
        self.adapter = folder / "adapter"
        self._lock = folder / ".lock"
        self._job = folder / "job.json"
        self._checkpoint = folder / "checkpoint.safetensors"
        self._metrics = folder / "metrics.jsonl"

    def check(self, job: JobConfig) -> None:
        """Check that the folder is free, or holds a run of this same job.

        Raises:
            RunFolderError: If it holds another job's run, or files of something else, or a run of
                this job that is going on.
        """
        self._check_content(job)
        if self._lock.exists():
            os.close(self._take_lock())

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
        lock = self._take_lock()
        try:
            self._check_content(job)
            if not self._job.exists():
                write_atomically(self._job, job.model_dump_json(indent=2) + "\n")
            yield
        finally:
            os.close(lock)

    def _take_lock(self) -> int:
        """Return the descriptor that holds the lock; it ends with the process at the latest."""
        try:
            lock = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunFolderError(
                self.folder, f"cannot be written ({error.strerror}); choose another with --output"
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if not isinstance(error, BlockingIOError):
                problem = f"cannot be locked ({error.strerror}); choose another with --output"
            else:
                problem = "a run is going on in it; wait for it or choose another with --output"
            raise RunFolderError(self.folder, problem) from None
        return lock

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
            tensors, remembered = _split(arrays)
            memory = None if header.memory is None else from_parts(header.memory, remembered)
        except (SafetensorError, KeyError, ValidationError, OSError) as error:
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
        )

    def save(self, state: FederationState, *, base_weights_sha256: str) -> None:
        """Replace the checkpoint by `state`."""
        memory, remembered = (None, {}) if state.memory is None else to_parts(state.memory)
        header = CheckpointHeader(
            completed_rounds=state.completed_rounds,
            num_refused=state.num_refused,
            base_weights_sha256=base_weights_sha256,
            base_losses=tuple(
                (loss.client, loss.loss, loss.num_tokens) for loss in state.base_losses
            ),
            memory=memory,
            refusals=tuple(astuple(refusal) for refusal in state.refusals),
        )
        arrays = dict(state.tensors) | {_MEMORY + name: a for name, a in remembered.items()}
        data = save(arrays, metadata={"header": header.model_dump_json()})
        write_atomically(self._checkpoint, data)

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


def _split(arrays: Tensors) -> tuple[Tensors, Tensors]:
    """Return the adapter's tensors, and the arrays of a sparse job's memory."""
    tensors = {name: a for name, a in arrays.items() if not name.startswith(_MEMORY)}
    remembered = {
        name.removeprefix(_MEMORY): a for name, a in arrays.items() if name.startswith(_MEMORY)
    }
    return tensors, remembered


def _differences(earlier: JobConfig, job: JobConfig) -> list[str]:
    return [
        name
        for name in JobConfig.model_fields
        # A run may be moved, and its clients met elsewhere; neither decides anything.
        if name not in ("output", "deployment") and getattr(earlier, name) != getattr(job, name)
    ]
