"""Words of command lines that several engines read alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import typer

from planner.config import StrictModel
from serving.errors import ModelError

Config = TypeVar("Config", bound=StrictModel)


def kv_bytes_of(word: str) -> int:
    """Return the bytes of `--kv-memory`, a size such as `2GiB`.

    Raises:
        BadParameter: If it is none.
    """
    return size_of("--kv-memory", word)


def size_of(flag: str, word: str) -> int:
    """Return the bytes of a size such as `2GiB`.

    Raises:
        BadParameter: If it is none.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(word))
    except ValidationError:
        raise typer.BadParameter(f"{flag} {word!r} is no size; write for example 2GiB") from None


def default_name(model: str) -> str:
    """Return the name a model is served under where none is given: its folder's, or its id."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def adapter_of(word: str) -> tuple[str, Path]:
    """Return name and folder of an adapter written NAME=FOLDER.

    Raises:
        ModelError: If it is not written so.
    """
    name, equals, folder = word.partition("=")
    if not (name and equals and folder):
        raise ModelError(f"--adapter {word!r} is not NAME=FOLDER; write for example med=./adapter")
    return name, Path(folder)


def validated(kind: type[Config], given: Mapping[str, object]) -> Config:
    """Return a configuration; what is None is left to its default.

    Raises:
        BadParameter: If it contradicts itself.
    """
    from pydantic import ValidationError

    from planner.documents import describe

    try:
        return kind.model_validate({name: v for name, v in given.items() if v is not None})
    except ValidationError as error:
        # What several options are together at fault for is told of "document" in files.
        raise typer.BadParameter(describe(error).removeprefix("document: ")) from None
