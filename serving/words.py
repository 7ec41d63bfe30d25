"""Words of command lines that several engines read alike."""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import typer
from click.core import ParameterSource

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


def refuse_idle_drafting(context: typer.Context, *names: str) -> None:
    """Refuse options of drafting on a command line where nothing drafts; a drafter none says so itself.

    Args:
        context: Of a command with the options `draft`, `drafter` and, it may be, `no_draft`.
        names: The options, as parameters.

    Raises:
        BadParameter: Names the first.
    """
    options = context.params
    given = [
        f"--{name.replace('_', '-')}"
        for name in names
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    is_settled = options["draft"] or options["drafter"] or options.get("no_draft")
    if given and not is_settled:
        raise typer.BadParameter(
            f"{given[0]} does nothing without what drafts; add --draft MODEL or --drafter ngram, or "
            "drop it"
        )
    if "--draft-device" in given and options["drafter"] == "ngram":
        raise typer.BadParameter(
            "--draft-device is for a draft, and --drafter ngram has none; drop it"
        )


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
