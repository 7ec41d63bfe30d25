"""One text divided among clients, for experiments: every document goes to exactly one of them.

Source of the division by Dirichlet draws: Li et al., "Federated Learning on Non-IID Data Silos"
(arXiv 2102.02079), label distribution skew: of each label's documents client k gets a share p_k,
p ~ Dir(alpha, ..., alpha), drawn anew where a client is left with too few.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from finetune.client_texts import json_rows, package_sources
from finetune.errors import SplitError

LEAST_DOCUMENTS = 2
"""Fewest that a client of a job can do with: one is held out."""

MOST_DRAWS = 1000
"""How often shares are drawn before the division is given up."""

MOST_NAME_CHARACTERS = 64

FOLDER_KEY = "folder"
"""Key of the label of a package's files."""


@dataclass(frozen=True, slots=True)
class Document:
    """One document.

    Attributes:
        line: Its JSON, as it stood or as it will stand in a client's file.
        label: What it is of; documents of one label are alike.
        num_characters: Length of its text, or of its messages' JSON.
    """

    line: str
    label: str
    num_characters: int


def read_lines(path: Path, *, key: str | None) -> list[Document]:
    """Return the documents of a JSON lines file, each line kept as it is.

    Args:
        path: The file; a line holds `{"text": ...}` or `{"messages": [...]}`, and other keys.
        key: Key of the label; None labels all alike.

    Raises:
        SplitError: If the file is missing or malformed, or a line lacks the label.
    """
    try:
        documents = [
            _labelled(f"{path}:{number}", line, row, key) for number, line, row in json_rows(path)
        ]
    except ValueError as error:
        raise SplitError(str(error)) from None
    if not documents:
        raise SplitError(f"{path} holds no text; name a file that does")
    return documents


def _labelled(where: str, line: str, row: dict[str, Any], key: str | None) -> Document:
    label = row.get(key) if key is not None else ""
    if not isinstance(label, str | int):
        raise SplitError(
            f"{where}: its {key!r} is {json.dumps(label)[:60]}; give a text or a number"
        )
    text = row["text"] if "text" in row else json.dumps(row["messages"])
    return Document(line.rstrip("\r"), str(label), len(text))


def read_package(name: str, *, key: str | None) -> list[Document]:
    """Return a package's source files; their label is the folder they stand in.

    Args:
        name: Top-level import name.
        key: Key of the label, of which there is one: `folder`; None means that.

    Raises:
        SplitError: If it is not installed, holds no source, or another key is asked for.
    """
    if key not in (None, FOLDER_KEY):
        raise SplitError(f"key {key!r}: the files of a package have {FOLDER_KEY!r} alone; give it")
    try:
        sources = package_sources(name)
    except ValueError as error:
        raise SplitError(str(error)) from None
    documents = []
    for path, text in sources:
        folder = path.rpartition("/")[0] or name
        line = json.dumps({"text": text, FOLDER_KEY: folder})
        documents.append(Document(line, folder, len(text)))
    if not documents:
        raise SplitError(f"package {name!r} holds no source; name one that does")
    return documents


def by_label(documents: Sequence[Document]) -> dict[str, list[Document]]:
    """Return one client of each label, in the order in which the labels come.

    Raises:
        SplitError: If two labels give one name, or a client has too few documents.
    """
    clients: dict[str, list[Document]] = {}
    labels: dict[str, str] = {}
    for document in documents:
        name = client_name(document.label)
        if labels.setdefault(name, document.label) != document.label:
            raise SplitError(
                f"{labels[name]!r} and {document.label!r} both make a client {name!r}; rename one"
            )
        clients.setdefault(name, []).append(document)
    for name, held in clients.items():
        if len(held) < LEAST_DOCUMENTS:
            raise SplitError(
                f"client {name!r} has {len(held)} document; a job needs {LEAST_DOCUMENTS}"
            )
    return clients


def by_dirichlet(
    documents: Sequence[Document], *, alpha: float, num_clients: int, seed: int
) -> dict[str, list[Document]]:
    """Return so many clients whose shares of each label are drawn; documents stay in order.

    Args:
        documents: What is divided. Where all have one label, the documents are cut into as many
            groups as there are clients, in their order: neighbours tend to be alike.
        alpha: The lower, the more unequal; towards infinity all clients are alike.
        num_clients: How many, named `client-1` and so on.
        seed: Decides the draws.

    Raises:
        SplitError: If no draw gives each client enough.
    """
    if len(documents) < LEAST_DOCUMENTS * num_clients:
        raise SplitError(
            f"{len(documents)} documents do not give each of {num_clients} clients "
            f"{LEAST_DOCUMENTS}; lower --clients"
        )
    groups = _groups(documents, num_clients)
    generator = np.random.default_rng(seed)
    for _ in range(MOST_DRAWS):
        parts: list[list[int]] = [[] for _ in range(num_clients)]
        for members in groups:
            shares = generator.dirichlet(np.full(num_clients, alpha))
            cuts = np.floor(np.cumsum(shares)[:-1] * len(members) + 0.5).astype(int)
            for part, taken in zip(
                parts, np.split(generator.permutation(members), cuts), strict=True
            ):
                part.extend(taken.tolist())
        if min(map(len, parts)) >= LEAST_DOCUMENTS:
            names = [f"client-{number}" for number in range(1, num_clients + 1)]
            return {
                name: [documents[index] for index in sorted(part)]
                for name, part in zip(names, parts, strict=True)
            }
    raise SplitError(
        f"none of {MOST_DRAWS} draws gives each of {num_clients} clients {LEAST_DOCUMENTS} of the "
        f"{len(documents)} documents; raise --dirichlet {alpha:g} or lower --clients"
    )


def _groups(documents: Sequence[Document], num_clients: int) -> list[list[int]]:
    """Return the documents' indices by label."""
    groups: dict[str, list[int]] = {}
    for index, document in enumerate(documents):
        groups.setdefault(document.label, []).append(index)
    if len(groups) > 1:
        return list(groups.values())
    return [part.tolist() for part in np.array_split(np.arange(len(documents)), num_clients)]


def client_name(label: str) -> str:
    """Return a label as a client's name: letters, digits, dot, dash and underscore.

    Raises:
        SplitError: If nothing of it is left.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-._")[:MOST_NAME_CHARACTERS]
    if not name:
        raise SplitError(f"{label[:60]!r} makes no client's name; give it letters or digits")
    return name


def most_common_label(documents: Sequence[Document]) -> tuple[str, float]:
    """Return the label of most of a client's documents, and its share of them."""
    ((label, count),) = Counter(document.label for document in documents).most_common(1)
    return label, count / len(documents)


def files_of(clients: Mapping[str, Sequence[Document]]) -> dict[str, str]:
    """Return each client's file, by its name."""
    return {
        f"{name}.jsonl": "".join(f"{document.line}\n" for document in documents)
        for name, documents in clients.items()
    }
