"""Words of command lines that several engines read alike."""

from pathlib import Path

import typer

from serving.errors import ModelError


def kv_bytes_of(word: str) -> int:
    """Return the bytes of a size such as `2GiB`.

    Raises:
        BadParameter: If it is none.
    """
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(word))
    except ValidationError:
        raise typer.BadParameter(
            f"--kv-memory {word!r} is no size; write for example 2GiB"
        ) from None


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
