"""Embeddings for the commands: of all prompts of a file, a batch at a time."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import httpx
import numpy as np
from numpy.typing import NDArray

from router.errors import EmbeddingError
from router.prediction.embedding import (
    PATH,
    REFUSED_STATUSES,
    embedding_text,
    embeddings_body,
    read_embeddings,
)
from router.prediction.labelled import Progress

Float32 = NDArray[np.float32]

BATCH_TEXTS = 50
ENOUGH_TEXTS = 100
"""So many texts, and no embedding of any, end the command."""
_TIMEOUT = httpx.Timeout(300, connect=10)
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class EmbeddingSource:
    """Who is asked."""

    url: str
    """Without `/v1`, such as `http://127.0.0.1:8001`."""
    model: str
    """As the server calls it."""
    key: str | None = None
    """Sent as a bearer token and written nowhere."""


class _RefusedError(Exception):
    """The server does not embed these texts."""


def fetch_embeddings(
    texts: Sequence[str],
    source: EmbeddingSource,
    *,
    length: int | None = None,
    client: httpx.Client | None = None,
    progress: Progress | None = None,
) -> list[Float32 | None]:
    """Return one embedding a text; None for an empty one, and for one that is refused even alone.

    Args:
        texts: Whole prompts.
        source: Who is asked.
        length: Of the embeddings; None: whatever the first one has.
        client: Sends the requests; by default a new one, which passes the environment's proxies by.
        progress: Is told how many texts are done.

    Raises:
        EmbeddingError: If the server cannot be reached, fails, or takes no text.
    """
    found: list[Float32 | None] = []
    problem = "each is empty"
    opened = contextlib.nullcontext(client) if client else httpx.Client(trust_env=False)
    with opened as used:
        for begin in range(0, len(texts), BATCH_TEXTS):
            batch = [embedding_text(text) for text in texts[begin : begin + BATCH_TEXTS]]
            try:
                found += _embed(used, source, batch, length)
            except _RefusedError:
                for text in batch:
                    try:
                        found += _embed(used, source, [text], length)
                    except _RefusedError as error:
                        found.append(None)
                        problem = str(error)
            length = length or next((len(one) for one in found if one is not None), None)
            if length is None and len(found) >= min(ENOUGH_TEXTS, len(texts)):
                raise EmbeddingError(
                    f"{source.url}: none of {len(found)} texts has an embedding ({problem}); name "
                    "a model that takes them"
                )
            if progress is not None:
                progress(len(found), len(texts))
    return found


def _embed(
    client: httpx.Client, source: EmbeddingSource, texts: Sequence[str], length: int | None
) -> list[Float32 | None]:
    """Return the embeddings of cut texts, None for those that are empty.

    Raises:
        EmbeddingError: If the server cannot be used.
        _RefusedError: If it does not take one of these texts.
    """
    filled = [text for text in texts if text]
    if not filled:
        return [None] * len(texts)
    headers = {"content-type": "application/json"}
    if source.key is not None:
        headers["authorization"] = f"Bearer {source.key}"
    body = embeddings_body(source.model, filled)
    try:
        answer = client.post(source.url + PATH, content=body, headers=headers, timeout=_TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise EmbeddingError(
            f"{source.url}: cannot be asked for embeddings ({type(error).__name__} {error}); check "
            "that it is up"
        ) from None
    if answer.status_code in REFUSED_STATUSES:
        raise _RefusedError(_told(answer))
    if not answer.is_success:
        raise EmbeddingError(f"{source.url}: gave no embeddings ({_told(answer)}); correct that")
    try:
        vectors = iter(read_embeddings(answer.content, num_texts=len(filled), length=length))
    except EmbeddingError as error:
        raise EmbeddingError(f"{source.url}: {error}") from None
    return [next(vectors) if text else None for text in texts]


def _told(answer: httpx.Response) -> str:
    """Return status and message of an answer that is none, as one short line."""
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, TypeError, KeyError):
        message = answer.text
    shown = " ".join(message.split())[:_SHOWN_CHARACTERS]
    return f"HTTP {answer.status_code}: {shown}"
