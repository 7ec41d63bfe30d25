"""Reads graded prompts: a JSON list of texts, each with a score of the models that answered it."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from planner.documents import read_text
from router.errors import TrainingDataError
from router.prediction.labelled import LabelledPrompts, Progress, label_scores

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


def read_labelled(path: Path, *, progress: Progress | None = None) -> LabelledPrompts:
    """Return the prompts of such a list as features and losses; errors as above."""
    prompts = read_graded_prompts(path)
    return label_scores(
        [one.question for one in prompts], [one.scores for one in prompts], progress=progress
    )
