"""A job's documents as token sequences, and which of them a step trains.

The order is one endless row: all documents shuffled, then all shuffled anew, and so on. Step i takes
the i-th `batch_size` of it, so that a resumed run needs no more than the number of its step.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from finetune.client_texts import RenderChat, documents_of, split
from finetune.errors import LocalRunError
from finetune.local_runs.local_job import LocalJob

TokenRow = NDArray[np.int64]
"""Token ids of one document. Shape: (num_tokens,)."""


@dataclass(frozen=True, slots=True)
class LocalText:
    """What a job trains on and is judged on.

    Attributes:
        training: One sequence a document, each of at least 2 tokens.
        held_out: The same, of documents kept out.
        num_dropped_empty: Documents left out because they hold nothing to predict.
        num_dropped_long: Documents left out because they are longer than the job allows.
        num_cut: Documents that lost what stands behind the job's longest sequence.
    """

    training: tuple[TokenRow, ...]
    held_out: tuple[TokenRow, ...]
    num_dropped_empty: int = 0
    num_dropped_long: int = 0
    num_cut: int = 0

    @property
    def sha256(self) -> str:
        """Digest of the sequences in order, the held-out ones last, hexadecimal."""
        digest = hashlib.sha256(len(self.training).to_bytes(8, "little"))
        for row in (*self.training, *self.held_out):
            digest.update(len(row).to_bytes(8, "little"))
            digest.update(row.astype("<i8").tobytes())
        return digest.hexdigest()


def read_text(
    job: LocalJob, *, encode: Callable[[str], list[int]], render_chat: RenderChat
) -> LocalText:
    """Read the job's documents, split off the held-out ones, tokenise both.

    Raises:
        LocalRunError: If the source is missing or malformed, or too little of it is left.
    """
    try:
        documents = documents_of(job.data, render_chat=render_chat)
    except ValueError as error:
        raise LocalRunError(f"data: {error}") from None
    texts = [document for document in documents if document.strip()]
    admitted = _Admission(job, num_empty=len(documents) - len(texts))
    training, held_out = split(texts, held_out_fraction=job.held_out_fraction)
    rows = tuple(admitted.rows(map(encode, training)))
    held_rows = tuple(admitted.rows(map(encode, held_out)))
    for what, found in (("training", rows), ("held-out", held_rows)):
        if not found:
            raise LocalRunError(
                f"data: none of {len(documents)} documents is left as {what} text "
                f"({admitted.num_empty} empty, {admitted.num_long} longer than max_tokens "
                f"{job.max_tokens}); add documents, raise max_tokens or take long_documents: cut"
            )
    return LocalText(
        training=rows,
        held_out=tuple(_scored(held_rows, job)),
        num_dropped_empty=admitted.num_empty,
        num_dropped_long=admitted.num_long,
        num_cut=admitted.num_cut,
    )


class _Admission:
    """Admits sequences by their length and counts those it does not."""

    def __init__(self, job: LocalJob, *, num_empty: int) -> None:
        self._most = job.max_tokens
        self._is_cut = job.long_documents == "cut"
        self.num_empty, self.num_long, self.num_cut = num_empty, 0, 0

    def rows(self, sequences: Iterable[list[int]]) -> Iterator[TokenRow]:
        for tokens in sequences:
            if len(tokens) < 2:
                self.num_empty += 1
            elif len(tokens) > self._most and not self._is_cut:
                self.num_long += 1
            else:
                self.num_cut += len(tokens) > self._most
                yield np.asarray(tokens[: self._most], np.int64)


def _scored(rows: tuple[TokenRow, ...], job: LocalJob) -> Iterator[TokenRow]:
    """Return whole sequences up to the job's bound, chosen by its seed; at least one."""
    num_tokens = 0
    for position in np.random.default_rng(job.seed).permutation(len(rows)):
        num_tokens += len(rows[position])
        if num_tokens > job.held_out_tokens and num_tokens > len(rows[position]):
            return
        yield rows[position]


class BatchOrder:
    """Which training documents each step takes; a function of the job and their number alone."""

    def __init__(self, job: LocalJob, *, num_documents: int) -> None:
        """Fix the number of steps."""
        self._size, self._seed, self._num_documents = job.batch_size, job.seed, num_documents
        self._most = None if job.epochs is None else job.epochs * num_documents
        self.num_steps = job.steps or -(-(self._most or 0) // job.batch_size)

    def positions(self, step: int) -> tuple[int, ...]:
        """Return the documents of a step, from 0; the last of a number of epochs may hold fewer."""
        first = step * self._size
        end = first + self._size if self._most is None else min(first + self._size, self._most)
        return tuple(self._at(place) for place in range(first, end))

    def _at(self, place: int) -> int:
        epoch, inside = divmod(place, self._num_documents)
        return int(_shuffled(self._seed, epoch, self._num_documents)[inside])


@lru_cache(maxsize=4)
def _shuffled(seed: int, epoch: int, num_documents: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(num_documents)
