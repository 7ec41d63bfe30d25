"""The target's features of all sequences, on disk: computed once, read every epoch.

Shape letters: n tokens of a sequence, E the target's hidden size.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from planner.config import StrictModel
from planner.documents import read_document, write_atomically
from planner.errors import DocumentError
from serving.draft_training.data import TokenSequence

logger = logging.getLogger(__name__)

SHARD_TOKENS = 1 << 15
"""Tokens of one file of the cache; what an interruption may cost."""

FeatureFunction = Callable[[Tensor], Tensor]
"""Token ids, shape (n,), to last hidden states after the final norm, shape (n, E)."""

CacheProgress = Callable[[int, int], None]
"""Called with the tokens done and the tokens in all."""


class CacheFacts(StrictModel):
    """What the features of a folder were computed from."""

    schema_version: Literal[1] = 1
    """Version of this document's schema."""
    target_sha256: str | None
    """Digest of the target's weights."""
    text_sha256: str
    """Digest of all token ids and masks."""


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence with its features."""

    ids: Tensor
    """Shape: (n,), int64."""
    mask: Tensor
    """Shape: (n,)."""
    features: Tensor
    """Shape: (n, E), float16."""


class FeatureCache:
    """A folder of shards, each holding whole sequences, in the order of the text."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; `fill` creates it."""
        self.folder = folder
        self._index: list[tuple[Path, int, int]] = []
        self._open = lru_cache(maxsize=64)(_opened)

    def fill(
        self,
        sequences: Sequence[TokenSequence],
        features_of: FeatureFunction,
        *,
        facts: CacheFacts,
        feature_size: int,
        most_bytes: int,
        progress: CacheProgress,
    ) -> None:
        """Compute what is missing, from where an earlier run stopped, up to `most_bytes`.

        Raises:
            DocumentError: If the folder holds features of another target or text, or a feature is
                beyond the range of float16.
        """
        self._claim(facts)
        kept = _within(sequences, most_bytes=most_bytes, bytes_per_token=2 * feature_size + 5)
        if len(kept) < len(sequences):
            logger.warning(
                "feature cache is full folder=%s num_kept=%d num_left_out=%d most_bytes=%d",
                self.folder,
                len(kept),
                len(sequences) - len(kept),
                most_bytes,
            )
        total = sum(len(sequence.ids) for sequence in kept)
        done = 0
        self._index = []
        for number, shard in enumerate(_shards(kept)):
            path = self.folder / f"shard-{number:05d}.safetensors"
            if not path.exists():
                self._write(path, shard, features_of)
            done += sum(len(sequence.ids) for sequence in shard)
            progress(done, total)
            start = 0
            for sequence in shard:
                self._index.append((path, start, start + len(sequence.ids)))
                start += len(sequence.ids)

    def _claim(self, facts: CacheFacts) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "facts.json"
        if path.exists() and read_document(path, CacheFacts) != facts:
            raise DocumentError(path, "is of another target or text; name another --work folder")
        write_atomically(path, facts.model_dump_json(indent=1) + "\n")

    def _write(
        self,
        path: Path,
        shard: list[TokenSequence],
        features_of: FeatureFunction,
    ) -> None:
        parts = []
        for sequence in shard:
            part = features_of(torch.from_numpy(sequence.ids.astype(np.int64)))
            parts.append(part.to("cpu", torch.float16))
            if not torch.isfinite(parts[-1]).all():
                raise DocumentError(path, "the target's features are beyond float16; cannot train")
        tensors = {
            "ids": torch.from_numpy(np.concatenate([sequence.ids for sequence in shard])),
            "mask": torch.from_numpy(np.concatenate([sequence.mask for sequence in shard])),
            "features": torch.cat(parts),
        }
        temporary = path.with_suffix(".partial")
        save_file(tensors, temporary)
        temporary.replace(path)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def num_tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(stop - start for _, start, stop in self._index)

    def __getitem__(self, number: int) -> Example:
        path, start, stop = self._index[number]
        file = self._open(path)
        piece = slice(start, stop)
        return Example(
            ids=file.get_slice("ids")[piece].long(),
            mask=file.get_slice("mask")[piece].float(),
            features=file.get_slice("features")[piece],
        )


def _opened(path: Path) -> Any:
    return safe_open(path, framework="pt")


def _within(
    sequences: Sequence[TokenSequence], *, most_bytes: int, bytes_per_token: int
) -> list[TokenSequence]:
    """Return the first sequences whose features fit, one at least."""
    kept: list[TokenSequence] = []
    size = 0
    for sequence in sequences:
        size += len(sequence.ids) * bytes_per_token
        if kept and size > most_bytes:
            break
        kept.append(sequence)
    return kept


def _shards(sequences: list[TokenSequence]) -> list[list[TokenSequence]]:
    shards: list[list[TokenSequence]] = []
    room = 0
    for sequence in sequences:
        if not shards or room < len(sequence.ids):
            shards.append([])
            room = SHARD_TOKENS
        shards[-1].append(sequence)
        room -= len(sequence.ids)
    return shards
