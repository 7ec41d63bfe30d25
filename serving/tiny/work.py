"""The trainer's work folder: checkpoints, the recipe they belong to, and the time they took."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from planner.config import StrictModel
from planner.documents import read_document, write_atomically
from planner.errors import DocumentError
from serving.tiny.card import TrainingTime
from serving.tiny.recipe import Recipe, Schedule

Role = Literal["target", "draft"]

WRITE_SECONDS = 30.0
"""Time between records of the training time."""


class WorkRecipe(StrictModel):
    """What the checkpoints of a work folder were made from."""

    schema_version: Literal[1] = 1
    """Version of this document's schema."""
    recipe: Recipe
    """Shapes, seeds and schedules."""
    training_sha256: str
    """Digest of the training files, see `Corpus.digest`."""


class WorkTimes(StrictModel):
    """How long the checkpoints of a work folder have trained."""

    schema_version: Literal[1] = 1
    """Version of this document's schema."""
    target: TrainingTime = TrainingTime()
    """Training of the target."""
    draft: TrainingTime = TrainingTime()
    """Distillation of the draft."""

    def of(self, role: Role) -> TrainingTime:
        """Return the time of `role`."""
        return self.target if role == "target" else self.draft


class WorkFolder:
    """Holds `target.pt` and `draft.pt`, `recipe.json` that they follow, and `times.json`."""

    def __init__(self, path: Path) -> None:
        """Name the folder; `claim` creates it."""
        self.path = path

    def checkpoint(self, role: Role) -> Path:
        """Return where the checkpoint of `role` is."""
        return self.path / f"{role}.pt"

    def steps_done(self, role: Role) -> int:
        """Return the steps the checkpoint of `role` has behind it, 0 without one."""
        path = self.checkpoint(role)
        if not path.exists():
            return 0
        return int(torch.load(path, weights_only=True, mmap=True)["step"])

    def claim(self, recipe: Recipe, *, training_sha256: str) -> None:
        """Make the folder follow `recipe`, creating it where it does not exist.

        Raises:
            DocumentError: If a checkpoint in it was made from another recipe or text. The number of
                steps may change as long as the rate has not begun to fall under either number.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / "recipe.json"
        wanted = WorkRecipe(recipe=recipe, training_sha256=training_sha256)
        if path.exists():
            self._refuse_conflict(read_document(path, WorkRecipe), wanted)
        elif self.checkpoint("target").exists():
            raise DocumentError(path, "is missing beside a checkpoint; name another --work folder")
        write_atomically(path, wanted.model_dump_json(indent=2) + "\n")

    def _refuse_conflict(self, stored: WorkRecipe, wanted: WorkRecipe) -> None:
        for role in ("target", "draft"):
            if not self.checkpoint(role).exists():
                continue
            ours, theirs = _relevant(stored, role), _relevant(wanted, role)
            for name in ours:
                if ours[name] == theirs[name] or self._may_change(role, stored, wanted, name):
                    continue
                raise DocumentError(
                    self.checkpoint(role),
                    f"was trained with {name} {ours[name]}, not {theirs[name]}; "
                    "repeat that value, or name another --work folder",
                )

    def _may_change(self, role: Role, stored: WorkRecipe, wanted: WorkRecipe, name: str) -> bool:
        if name != f"{role}_schedule.num_steps":
            return False
        before, after = schedule_of(stored.recipe, role), schedule_of(wanted.recipe, role)
        return self.steps_done(role) <= min(before.decay_start, after.decay_start)

    def times(self) -> WorkTimes:
        """Return the training times so far.

        Raises:
            DocumentError: If `times.json` is malformed.
        """
        path = self.path / "times.json"
        return read_document(path, WorkTimes) if path.exists() else WorkTimes()

    @contextmanager
    def timed(self, role: Role) -> Iterator[Callable[[], None]]:
        """Add the time spent inside to the training time of `role`, also when interrupted.

        Yields a function to call now and then: what it last wrote survives even a killed process.
        """
        before = self.times().of(role).seconds
        start = last_written = time.monotonic()

        def write() -> None:
            spent = TrainingTime(
                seconds=round(before + time.monotonic() - start, 3),
                num_threads=torch.get_num_threads(),
            )
            content = self.times().model_copy(update={role: spent}).model_dump_json(indent=2)
            write_atomically(self.path / "times.json", content + "\n")

        def tick() -> None:
            nonlocal last_written
            if time.monotonic() - last_written > WRITE_SECONDS:
                write()
                last_written = time.monotonic()

        try:
            yield tick
        finally:
            write()


def schedule_of(recipe: Recipe, role: Role) -> Schedule:
    """Return the schedule that trains `role`."""
    return recipe.target_schedule if role == "target" else recipe.draft_schedule


def _relevant(work: WorkRecipe, role: Role) -> dict[str, object]:
    """Return what a checkpoint of `role` depends on, by dotted name."""
    flat: dict[str, object] = {"training text": work.training_sha256}
    for name, value in work.recipe.model_dump().items():
        if name.startswith("head") or (role == "target" and name.startswith("draft")):
            continue
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            flat[name] = value
    return flat
