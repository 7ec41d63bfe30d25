"""Reads the text a head learns from: chats in JSON lines, or plain text, as token ids with a mask.

Shape letter: n tokens of one document.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from planner.documents import read_text
from planner.errors import DocumentError

logger = logging.getLogger(__name__)

SUFFIXES = frozenset({".jsonl", ".txt", ".md", ".py", ".rst"})
"""Which files of a folder are read."""
HELD_OUT_ONE_IN = 20
"""One document in so many, by the hash of its text, is kept from training."""
ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user"}
"""Roles of ShareGPT's files in the words of chat templates."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids of one text or a piece of it; the mask is 1 where the head is to learn."""

    ids: NDArray[np.int32]
    mask: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Split:
    """Sequences to train on and sequences to judge by."""

    training: list[TokenSequence]
    held_out: list[TokenSequence]


def read_split(
    paths: Iterable[Path], tokenizer: PreTrainedTokenizerBase, *, sequence_tokens: int
) -> Split:
    """Read, tokenise and cut all documents of `paths`, one in twenty of them held out.

    Where no document is held out by its hash, the last twentieth of the sequences is.

    Raises:
        DocumentError: If a file cannot be read, is malformed, or all hold too little text.
    """
    training: list[TokenSequence] = []
    held_out: list[TokenSequence] = []
    names = list(paths)
    for path in _files(names):
        for document in _documents(path, tokenizer):
            digest = hashlib.sha256(document.ids.tobytes()).hexdigest()
            is_held_out = int(digest, 16) % HELD_OUT_ONE_IN == 0
            (held_out if is_held_out else training).extend(cut(document, sequence_tokens))
    if not held_out:
        count = max(len(training) // HELD_OUT_ONE_IN, 1)
        training, held_out = training[:-count], training[-count:]
    if not training:
        raise DocumentError(names[0], "holds too little text to train on and judge by; give more")
    return Split(training, held_out)


def cut(document: TokenSequence, sequence_tokens: int) -> Iterator[TokenSequence]:
    """Yield pieces of at most so many tokens; pieces of fewer than 3 tokens teach nothing."""
    for start in range(0, len(document.ids), sequence_tokens):
        piece = slice(start, start + sequence_tokens)
        if len(document.ids[piece]) > 2:
            yield TokenSequence(document.ids[piece], document.mask[piece])


def _files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES)
        if not found:
            raise DocumentError(path, f"holds no files of {', '.join(sorted(SUFFIXES))}")
        yield from found


def _documents(path: Path, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenSequence]:
    text = read_text(path)
    if path.suffix != ".jsonl":
        yield from _plain(text, tokenizer)
        return
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if "text" in record:
                yield from _plain(record["text"], tokenizer)
            else:
                yield _chat(_messages(record), tokenizer)
        except (ValueError, KeyError, TypeError) as error:
            wanted = 'write {"text": ...}, {"messages": [...]} or {"conversations": [...]}'
            raise DocumentError(path, f"line {number} cannot be used ({error}); {wanted}") from None


def _messages(record: dict[str, Any]) -> list[dict[str, str]]:
    """Return a chat in the form of chat templates, out of that form or ShareGPT's."""
    if "messages" in record:
        return [{"role": turn["role"], "content": turn["content"]} for turn in record["messages"]]
    turns = record["conversations"]
    return [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in turns]


def _plain(text: str, tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenSequence]:
    ids = np.array(tokenizer(text, verbose=False).input_ids, np.int32)
    if len(ids):
        yield TokenSequence(ids, np.ones(len(ids), np.uint8))


def _chat(messages: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> TokenSequence:
    """Return a chat's tokens; the mask is 1 on what the assistant says."""
    text = _templated(messages, tokenizer)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = np.array([start for start, _ in encoded["offset_mapping"]], np.int64)
    mask = np.zeros(len(starts), np.uint8)
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            first = len(_templated(messages[:index], tokenizer, add_generation_prompt=True))
            stop = len(_templated(messages[: index + 1], tokenizer))
            mask[(starts >= first) & (starts < stop)] = 1
    return TokenSequence(np.array(encoded["input_ids"], np.int32), mask)


def _templated(
    messages: list[dict[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    add_generation_prompt: bool = False,
) -> str:
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    )
