"""Reading and writing the documents that cross a wall: YAML and JSON into `StrictModel`s."""

import json
import os
import tempfile
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from planner.errors import DocumentError, close_names

SECRET = "secret"
"""Type of a `PydanticCustomError` whose message does not show the value."""

Model = TypeVar("Model", bound=BaseModel)


def read_document(path: Path, model: type[Model]) -> Model:
    """Return the YAML or JSON file at `path` as a `model`.

    Raises:
        DocumentError: If the file is missing, unreadable, malformed, or breaks the schema. The
            message is one line with the dotted path of the first problem, its value and the count
            of further problems.
    """
    return validated(path, read_content(path), model)


def read_text(path: Path) -> str:
    """Return the UTF-8 text of the file at `path`.

    Raises:
        DocumentError: If the file is missing or unreadable.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DocumentError(path, "no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(path, f"cannot be read ({error}); check the file") from None


def read_content(path: Path) -> dict[Any, Any]:
    """Return the mapping in the YAML or JSON file at `path`, as it stands there.

    Raises:
        DocumentError: If the file is missing, unreadable, malformed, or holds no mapping.
    """
    text = read_text(path)
    try:
        content = _parse_json(text) if path.suffix == ".json" else yaml.load(text, _UniqueKeyLoader)
    # The YAML parser raises ValueError on impossible dates and recurses with the nesting.
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DocumentError(path, f"is malformed: {_one_line(error)}; correct it") from None
    if not isinstance(content, dict):
        raise DocumentError(path, "holds no mapping at its top level; see configs/ for examples")
    return content


def validated(path: Path, content: dict[Any, Any], model: type[Model]) -> Model:
    """Return the content of the file at `path` as a `model`.

    Raises:
        DocumentError: If it breaks the schema; the message is as of `read_document`.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise DocumentError(path, describe(error, model)) from None


def describe(error: ValidationError, model: type[BaseModel] | None = None) -> str:
    """Return a validation error as one line: dotted path, what is wrong, the value.

    With the `model` that was broken, an unknown key is told with those that are spelt like it.
    """
    problems = _told(error.errors(include_url=False))
    # Another version explains every other problem; a misspelled key, one that is missing.
    first = min(problems, key=lambda p: (p["loc"] != ("schema_version",), not _is_unknown(p)))
    where = ".".join(str(part) for part in first["loc"]) or "document"
    if first["loc"] == ("schema_version",) and first["type"] == "literal_error":
        expected = first["ctx"]["expected"]
        what = f"is {_short(first['input'])}, read is {expected}; make the document again"
    elif first["type"] == "extra_forbidden":
        near = (
            () if model is None else close_names(str(first["loc"][-1]), _keys(model, first["loc"]))
        )
        told = f"near: {', '.join(near)}; " if near else ""
        what = f"unknown key; {told}remove it or correct its spelling"
    elif first["type"] == "missing":
        what = "is required; add it"
    elif first["type"] == "value_error" and isinstance(first["input"], dict):
        # A check over several fields: its message carries the values that matter.
        what = first["msg"].removeprefix("Value error, ")
    elif first["type"] == "too_short":
        context = first["ctx"]
        what = f"holds {context['actual_length']}; give at least {context['min_length']}"
    elif first["type"] == SECRET:
        what = first["msg"]
    else:
        words = _WORDS.get(first["type"], first["msg"].removeprefix("Value error, "))
        what = f"{words} (got {_short(first['input'])})"
    num_more = len(problems) - 1
    more = f" (and {num_more} more problem{'s' * (num_more > 1)})" if num_more else ""
    return f"{where}: {_one_line(what)}{more}"


def check_writable(path: Path) -> None:
    """Check, before the work, that `path` can be written after it.

    Raises:
        DocumentError: If its folder does not exist or takes no file, or it is anything but a
            regular file.
    """
    descriptor, temporary = _make_temporary(path.resolve())
    os.close(descriptor)
    temporary.unlink()


def check_apart(path: Path, inputs: Iterable[Path]) -> None:
    """Check, before the work, that writing to `path` replaces nothing that the work reads.

    Raises:
        DocumentError: If it is one of the inputs, by whatever name or link.
    """
    for read in inputs:
        if path.resolve() == read.resolve() or _is_same_file(path, read):
            raise DocumentError(path, "is both read and to be written; name another output file")


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` under a temporary name in the same folder, then rename it to `path`.

    Readers see the old file or the new one, never half of either.

    Raises:
        DocumentError: If the folder does not exist or the file cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    path = path.resolve()  # a link stays, and what it names is replaced
    descriptor, temporary = _make_temporary(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise DocumentError(path, f"cannot be written ({error.strerror}); check the disk") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


_WORDS = {
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}
"""Our words for what the library says in those of its language."""


def _told(problems: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the problems without lists that are too short because an entry of them is wrong."""
    places = [problem["loc"] for problem in problems]
    return [
        problem
        for problem in problems
        if problem["type"] != "too_short"
        or not any(
            len(place) > len(problem["loc"]) and place[: len(problem["loc"])] == problem["loc"]
            for place in places
        )
    ]


def _is_unknown(problem: ErrorDetails) -> bool:
    return problem["type"] == "extra_forbidden"


def _keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Return the keys that a document of `model` may hold beside the one at `loc`.

    Where a section has several forms, such as a workload, the keys of all of them.
    """
    sections = [model]
    for part in loc[:-1]:
        fields = [section.model_fields.get(str(part)) for section in sections]
        inside = [found for field in fields if field for found in _models_in(field.annotation)]
        sections = inside or sections  # an index or the name of a form stays where it is
    return list(dict.fromkeys(key for section in sections for key in section.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _is_same_file(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _make_temporary(path: Path) -> tuple[int, Path]:
    """Return an open file that can take the place of `path`, and its name."""
    try:
        if not path.parent.is_dir():
            raise DocumentError(path, f"there is no folder {path.parent}; create it")
        if path.is_dir():
            raise DocumentError(path, "is a folder; name a file")
        if path.exists() and not path.is_file():
            raise DocumentError(path, "is no regular file; name another")
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise DocumentError(
            path, f"cannot be written ({error.strerror}); check folder and name"
        ) from None
    return descriptor, Path(name)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe YAML loader that refuses a key given twice; YAML's own would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(str(key.value))
        return super().construct_mapping(node, deep=deep)


def _parse_json(text: str) -> object:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {twice!r} is there twice")
        return content

    return json.loads(text, object_pairs_hook=unique)


def _one_line(value: object) -> str:
    return " ".join(str(value).split())


def _short(value: object) -> str:
    text = _one_line(repr(value))
    return text if len(text) <= 60 else text[:57] + "..."
