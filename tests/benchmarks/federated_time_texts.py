"""Eight kinds of text that every installation of the project holds, cut into clients.

Five are sources of Python packages, three are something else; the tiny family was trained on Python's
standard library and on none of them. What is read changes with the installed versions.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

from finetune.client_texts import ClientTexts, split

DOMAINS = {
    "mathematics": ("sympy", "", "*.py"),
    "graphs": ("networkx", "", "*.py"),
    "plots": ("matplotlib", "", "*.py"),
    "networks": ("transformers", "models", "*.py"),
    "console": ("rich", "", "*.py"),
    "headers": ("torch", "include/c10", "*.h"),
    "stubs": ("mypy", "typeshed/stdlib", "*.pyi"),
    "readmes": ("", "", "METADATA"),
}
"""By name: package, folder below it, files. The last is the descriptions of all distributions."""

MOST_DOCUMENT_CHARACTERS = 4_000
MOST_CLIENT_CHARACTERS = 160_000
HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True, slots=True)
class Share:
    """A client's text: so many parts of a domain that do not overlap, and which of them."""

    domain: str
    part: int
    num_parts: int


def client_texts(client: str, share: Share) -> ClientTexts:
    """Return a client's documents."""
    documents, num_characters = [], 0
    for document in _documents(share.domain)[share.part :: share.num_parts]:
        if num_characters < MOST_CLIENT_CHARACTERS:
            documents.append(document)
            num_characters += len(document)
    training, held_out = split(documents, held_out_fraction=HELD_OUT_FRACTION)
    return ClientTexts(client, training, held_out)


@cache
def _documents(domain: str) -> tuple[str, ...]:
    """Return a piece of each of a domain's files, each once, in an order that tells nothing.

    From a third of the file on, after the licence that many begin with. The order is not that of
    `split`, which would gather the held-out ones.
    """
    texts = {text[len(text) // 3 :][:MOST_DOCUMENT_CHARACTERS] for text in _files(domain)}
    kept = (text for text in texts if len(text.strip()) > MOST_DOCUMENT_CHARACTERS // 10)
    return tuple(sorted(kept, key=lambda text: hashlib.blake2b(text.encode()).digest()))


def _files(domain: str) -> Iterator[str]:
    package, folder, pattern = DOMAINS[domain]
    if not package:
        for distribution in distributions():
            yield str(distribution.metadata.get_payload())
        return
    spec = find_spec(package)
    assert spec is not None, package
    for root in map(Path, spec.submodule_search_locations or ()):
        for path in (root / folder).rglob(pattern):
            yield path.read_text(encoding="utf-8", errors="replace")
