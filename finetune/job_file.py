"""Reading a job file: one clear line for whatever is wrong with it."""

from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from finetune.config import JobConfig
from planner.documents import describe, read_content
from planner.errors import DocumentError

_WORDS = {
    "greater_than": "give a number above {gt}",
    "greater_than_equal": "give {ge} or more",
    "less_than": "give a number below {lt}",
    "less_than_equal": "give {le} or less",
    "literal_error": "give {expected}",
    "union_tag_invalid": "its {discriminator} must be one of {expected_tags}",
    "union_tag_not_found": "needs a key {discriminator}",
    "string_too_short": "give at least {min_length} characters",
    "string_too_long": "give at most {max_length} characters",
    "finite_number": "give a finite number",
    "path_type": "give a path",
} | {
    f"{kind}_{problem}": f"give {words}"
    for kind, words in (
        ("string", "a text; quote it where YAML reads a number or a date"),
        ("int", "a whole number"),
        ("float", "a number"),
        ("bool", "true or false"),
    )
    for problem in ("type", "parsing", "from_float")
}
"""Our words for what pydantic says of a value, with the names of its context."""

_FORMS = {
    "address": "give HOST:PORT",
    "listen": "give an address of this machine",
    "name": "give letters, digits and ._-, a letter or digit first",
}
"""What a text must look like, by its key; of a package it is `name` too, and narrower."""


def read_job(path: Path) -> JobConfig:
    """Return the job in the YAML or JSON file at `path`.

    Raises:
        DocumentError: If it is no job; the message is one line: what, the value, what to do.
    """
    content = read_content(path)
    try:
        return JobConfig.model_validate(content)
    except ValidationError as error:
        raise DocumentError(path, describe_job(error)) from None


def describe_job(error: ValidationError) -> str:
    """Return what is wrong with a job as one line."""
    problems = [_in_our_words(problem) for problem in error.errors(include_url=False)]
    told = describe(ValidationError.from_exception_data(error.title, problems), JobConfig)
    where, _, what = told.partition(": ")
    # A check over several fields names the one that is to change itself.
    names_field = what.partition(":")[0].partition(" ")[0].partition(".")[0] in (
        JobConfig.model_fields
    )
    return what if names_field and (where == "document" or what.startswith(where)) else told


def _in_our_words(problem: ErrorDetails) -> InitErrorDetails:
    """Return a problem as pydantic takes it, in our words where we have some."""
    kind, context = problem["type"], problem.get("ctx", {})
    told: InitErrorDetails = {"type": kind, "loc": problem["loc"], "input": problem["input"]}
    if kind == "string_pattern_mismatch":
        is_package = "package" in problem["loc"]
        key = str(problem["loc"][-1])
        words = "give a top-level import name" if is_package else _FORMS.get(key)
    else:
        words = _WORDS[kind].format(**context) if kind in _WORDS else None
    if words is not None and problem["loc"] != ("schema_version",):
        # The words hold no braces of their own that pydantic would fill.
        told["type"] = PydanticCustomError("job_value", "{words}", {"words": words})
    if context and told["type"] == kind:
        told["ctx"] = context
    return told
