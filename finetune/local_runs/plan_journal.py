"""`plans.jsonl`: the plan of every step of a run, written before the step."""

from pathlib import Path

from pydantic import ValidationError

from finetune.errors import RunFolderError
from planner.config import StrictModel
from planner.training.training_plan import BatchPlan

PLANS_FILE = "plans.jsonl"


class RecordedPlan(StrictModel):
    """One line."""

    step: int
    """Counts from 1."""
    plan: BatchPlan
    """What the step was, or will be, trained by."""


class PlanJournal:
    """Plans by step; each line is whole or, where a process was killed, dropped and written again."""

    def __init__(self, folder: Path, *, completed_steps: int = 0) -> None:
        """Read the plans of earlier processes for steps that are not completed.

        Raises:
            RunFolderError: If a line in the middle is malformed.
        """
        self._path = folder / PLANS_FILE
        lines = whole_lines(self._path)[completed_steps:]  # they are in order
        try:
            records = [RecordedPlan.model_validate_json(line) for line in lines]
        except ValidationError:
            raise RunFolderError(
                folder, f"{PLANS_FILE} is damaged; remove it or start a new run"
            ) from None
        self._plans = {record.step: record.plan for record in records}

    def plan(self, step: int) -> BatchPlan | None:
        """Return the plan of a step, from 0, if it is recorded."""
        return self._plans.get(step + 1)

    def append(self, step: int, plan: BatchPlan) -> None:
        """Record the plan of a step, from 0.

        Raises:
            RunFolderError: If the disk does not take it.
        """
        record = RecordedPlan(step=step + 1, plan=plan)
        append_line(self._path, record.model_dump_json())


def whole_lines(path: Path) -> list[str]:
    """Return a file's lines; drop, on the disk too, a last one that an interruption cut short."""
    if not path.exists():
        return []
    text = path.read_bytes()
    end = text.rfind(b"\n") + 1
    if end < len(text):
        with path.open("r+b") as file:
            file.truncate(end)
    return text[:end].decode().splitlines()


def append_line(path: Path, line: str) -> None:
    """Add one line to a file of a run folder.

    Raises:
        RunFolderError: If the disk does not take it.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise RunFolderError(
            path.parent, f"cannot be written ({error.strerror}); make room and run again"
        ) from None
