"""A client's documents, and which of them are held out; read without torch."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.config import ClientConfig, ClientData, PackageData
from finetune.errors import ClientDataError

RenderChat = Callable[[list[dict[str, Any]]], str]
"""Turns the messages of a chat into text; raises ValueError where it cannot."""


@dataclass(frozen=True, slots=True)
class ClientTexts:
    """One client's documents, training and held out; no document stands on both sides."""

    client: str
    training: tuple[str, ...]
    held_out: tuple[str, ...]


def read_client(
    client: ClientConfig, *, held_out_fraction: float, render_chat: RenderChat
) -> ClientTexts:
    """Read a client's documents and split them.

    Raises:
        ClientDataError: If the source is missing or malformed, or holds fewer than two documents.
    """
    documents = read_documents(client, render_chat=render_chat)
    if not documents:
        raise ClientDataError(client.name, f"{_describe(client)} holds no text; name one that does")
    training, held_out = split(documents, held_out_fraction=held_out_fraction)
    if not training:
        raise ClientDataError(
            client.name,
            f"{_describe(client)} holds a single document; give at least two, one is held out",
        )
    return ClientTexts(client.name, training, held_out)


def read_documents(client: ClientConfig, *, render_chat: RenderChat) -> list[str]:
    """Return the client's documents that hold more than white space, in order.

    Raises:
        ClientDataError: If the source is missing or malformed.
    """
    try:
        documents = documents_of(client.data, render_chat=render_chat)
    except ValueError as error:
        raise ClientDataError(client.name, str(error)) from None
    return [document for document in documents if document.strip()]


def documents_of(data: ClientData, *, render_chat: RenderChat) -> list[str]:
    """Return every document of a source in order, blank ones too.

    Raises:
        ValueError: If it is missing or malformed; the message says where and what to do.
    """
    if isinstance(data, PackageData):
        return [text for _, text in package_sources(data.name)]
    return [
        _document(data.path, number, row, render_chat) for number, _, row in json_rows(data.path)
    ]


def split(
    documents: Sequence[str], *, held_out_fraction: float
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return (training, held out): whole documents, by the SHA-256 of their text.

    A document's side does not depend on the others, so added text moves none across; equal
    documents stand on one side. Where the hash leaves a side empty, the nearest document crosses.
    With fewer than two different documents, training is empty.
    """
    position = {document: _position(document) for document in documents}
    ordered = sorted(position, key=lambda document: (position[document], document))
    num_below = sum(position[document] < held_out_fraction for document in ordered)
    held = frozenset(ordered[: max(1, min(num_below, len(ordered) - 1))])
    training = tuple(document for document in documents if document not in held)
    return training, tuple(document for document in documents if document in held)


def _position(document: str) -> float:
    """Return where the document's hash falls in [0, 1)."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def _describe(client: ClientConfig) -> str:
    data = client.data
    return f"package {data.name!r}" if isinstance(data, PackageData) else str(data.path)


def package_sources(name: str) -> list[tuple[str, str]]:
    """Return path below the package and text of each of its source files, in order.

    Raises:
        ValueError: If it is not installed, or a file cannot be read; the message says what to do.
    """
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module of this very process that came from no installed package
        spec = None
    if spec is None:
        raise ValueError(f"no package {name!r} is installed; install it")
    files = [
        (path.relative_to(folder).as_posix(), path)
        for folder in map(Path, spec.submodule_search_locations or ())
        for path in folder.rglob("*.py")
    ]
    if not files and spec.origin is not None and spec.origin.endswith(".py"):
        files = [("", Path(spec.origin))]
    return [(inside, _source(path)) for inside, path in sorted(files)]


def _source(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check the file") from None


def json_rows(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Give number, text and content of each line that is not blank.

    Raises:
        ValueError: If the file cannot be read, or a line holds neither a text nor messages; the
            message says where and what to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); check the file") from None
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line, _row(f"{path}:{number}", line)


def _row(where: str, line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError alone: a number of too many digits
        raise ValueError(f"{where}: malformed JSON ({error}); correct it") from None
    match content:
        case {"text": str(), **rest} if "messages" not in rest:
            return dict(content)
        case {"messages": [_, *_], **rest} if "text" not in rest:
            return dict(content)
    raise ValueError(f'{where}: holds neither {{"text": ...}} nor {{"messages": [...]}}; give one')


def _document(path: Path, number: int, row: dict[str, Any], render_chat: RenderChat) -> str:
    try:
        document = str(row["text"]) if "text" in row else render_chat(row["messages"])
        document.encode("utf-8")  # not so half a surrogate pair, which JSON can spell
    except UnicodeEncodeError as error:
        raise ValueError(f"{path}:{number}: is no text ({error.reason}); mend it") from None
    except ValueError as error:
        raise ValueError(f"{path}:{number}: {error}") from None
    return document
