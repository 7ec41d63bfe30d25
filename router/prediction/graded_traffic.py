"""Joins a features log with the grades that came later."""

from pathlib import Path

from router.errors import TrainingDataError
from router.features_log import read_lines
from router.grades import read_grades
from router.prediction.labelled import LabelledPrompts, label_features


def read_graded_traffic(log: Path, grades: Path) -> LabelledPrompts:
    """Return the logged requests that were graded; grades of unknown requests are passed over.

    Raises:
        DocumentError: If a file cannot be read or a line is malformed.
        TrainingDataError: If no grade is of a logged request.
    """
    losses: dict[str, dict[str, float]] = {}
    for grade in read_grades(grades):
        losses.setdefault(grade.request_id, {})[grade.model] = 1 - grade.score
    lines = {line.request_id: line for line in read_lines(log) if line.request_id in losses}
    if not lines:
        raise TrainingDataError(
            f"{grades}: none of its {len(losses)} request ids is in {log}; name the log and the "
            "grades of the same router"
        )
    return label_features(
        [line.features for line in lines.values()],
        [losses[request_id] for request_id in lines],
        prompt_bytes=[line.prompt_bytes for line in lines.values()],
    )
