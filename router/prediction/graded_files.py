"""Reads graded prompts: a JSON list with texts, or a features log and the grades that came later."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from planner.documents import read_text
from router.errors import TrainingDataError
from router.prediction.labelled import LabelledPrompts, Progress, label_features, label_scores

_Score = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class GradedPrompt(BaseModel):
    """One prompt with a score of each model that answered it; other keys are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True)

    question: str
    """The prompt's text."""
    scores: Annotated[dict[str, _Score], Field(min_length=1)]
    """Model to its score, from 0 to 1."""


_PROMPTS = TypeAdapter(list[GradedPrompt])


def read_graded_prompts(path: Path) -> list[GradedPrompt]:
    """Return the prompts of a JSON list of `{"question", "scores"}`.

    Raises:
        DocumentError: If the file cannot be read.
        TrainingDataError: If it is no such list; the message names the first bad place.
    """
    try:
        content: Any = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise TrainingDataError(f"{path}: is not valid JSON: {error}; correct it") from None
    try:
        prompts = _PROMPTS.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        shown = repr(first["input"])[:60]
        raise TrainingDataError(
            f"{path}: {where}: {first['msg']}, not {shown}; give a list of "
            '{"question": TEXT, "scores": {MODEL: 0 to 1}}'
        ) from None
    if not prompts:
        raise TrainingDataError(f"{path}: holds no prompts; give at least 20")
    return prompts


def read_labelled(
    path: Path, *, grades: Path | None = None, progress: Progress | None = None
) -> LabelledPrompts:
    """Return labelled prompts of a JSON list, or with `grades`, of a features log.

    Raises:
        DocumentError: If a file cannot be read or a line of a log is malformed.
        TrainingDataError: If the content cannot be used.
    """
    if grades is not None:
        return _join(path, grades)
    prompts = read_graded_prompts(path)
    return label_scores(
        [one.question for one in prompts], [one.scores for one in prompts], progress=progress
    )


def _join(log: Path, grades: Path) -> LabelledPrompts:
    """Return the logged requests that were graded; grades of unknown requests are passed over."""
    from router.features_log import read_lines
    from router.grades import read_grades

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
