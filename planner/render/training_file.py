"""Reading a training plan to render, and saying what else a file is."""

from pathlib import Path

from planner.documents import read_content, validated
from planner.errors import DocumentError
from planner.training.training_plan import TrainingPlan


def read_training_plan(path: Path) -> TrainingPlan:
    """Return the training plan in a JSON file.

    Raises:
        DocumentError: If it cannot be read, is no training plan, or has no placement.
    """
    content = read_content(path)
    kind = content.get("kind")
    if kind != "training-plan":
        raise DocumentError(
            path,
            f"is no training plan (kind {kind!r}); write one with "
            "`motley plan training --place --output`",
        )
    plan = validated(path, content, TrainingPlan)
    if plan.placement is None:
        raise DocumentError(path, "has no placement; plan again with `--place`")
    return plan
