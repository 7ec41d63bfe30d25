"""Reading and writing the documents that cross a wall: YAML and JSON into `StrictModel`s."""

import json
import os
import tempfile
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from planner.errors import DocumentError

Model = TypeVar("Model", bound=BaseModel)


def read_document(path: Path, model: type[Model]) -> Model:
    """Return the YAML or JSON file at `path` as a `model`.

    Raises:
        DocumentError: If the file is missing, unreadable, malformed, or breaks the schema. The
            message is one line with the dotted path of the first problem, its value and the count
            of further problems.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DocumentError(path, "no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(path, f"cannot be read ({error}); check the file") from None
    try:
        content = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise DocumentError(path, f"is malformed: {_one_line(error)}; correct it") from None
    if not isinstance(content, dict):
        raise DocumentError(path, "holds no mapping at its top level; see configs/ for examples")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DocumentError(path, describe(error)) from None


def describe(error: ValidationError) -> str:
    """Return a validation error as one line: dotted path, what is wrong, the value."""
    problems = error.errors(include_url=False)
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"]) or "document"
    if first["type"] == "extra_forbidden":
        what = "unknown key; remove it or correct its spelling"
    elif first["type"] == "missing":
        what = "is required; add it"
    else:
        what = f"{first['msg'].removeprefix('Value error, ')} (got {_short(first['input'])})"
    more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
    return f"{where}: {_one_line(what)}{more}"


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` under a temporary name in the same folder, then rename it to `path`.

    Readers see the old file or the new one, never half of either.

    Raises:
        DocumentError: If the folder does not exist or cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise DocumentError(path, f"cannot be written ({error.strerror}); check the folder") from None
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _short(value: object) -> str:
    text = _one_line(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
