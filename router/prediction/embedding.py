"""`POST /v1/embeddings` as every OpenAI-compatible server has it: what is sent, and what comes back."""

import base64
import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from router.errors import EmbeddingError
from router.prediction.features import capped

Float32 = NDArray[np.float32]

PATH = "/v1/embeddings"
REFUSED_STATUSES = frozenset({400, 413, 422})
"""Answers that are about the text: it is too long for the model, or no text to it."""


def embedding_text(text: str) -> str:
    """Return what of a prompt is embedded, at most as much as is hashed; empty: nothing can be."""
    return capped(text)


def embeddings_body(model: str, texts: Sequence[str]) -> bytes:
    """Return the body of a request; base64 is a fifth of the numbers' text and read at once."""
    fields = {"model": model, "input": list(texts), "encoding_format": "base64"}
    return json.dumps(fields).encode()


def read_embeddings(content: bytes, *, num_texts: int, length: int | None = None) -> list[Float32]:
    """Return the embeddings of an answer, in the order of the texts.

    Args:
        content: The answer's body.
        num_texts: Texts that were sent.
        length: Of every embedding; None: of all alike.

    Raises:
        EmbeddingError: If there is not one for each text, of that length, of finite numbers.
    """
    try:
        data = json.loads(content)["data"]
        by_index = {one["index"]: _vector(one) for one in data}
        vectors = [by_index[index] for index in range(num_texts)]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise EmbeddingError(
            f"answered no list of {num_texts} embeddings; name a server that has {PATH}"
        ) from None
    wanted = length or (vectors[0].size if vectors else 0)
    for vector in vectors:
        if vector.shape != (wanted,) or not wanted:
            raise EmbeddingError(
                f"answered an embedding of shape {vector.shape}, not {(wanted,)}; name the model "
                "that the others are from"
            )
        if not np.isfinite(vector).all():
            raise EmbeddingError("answered an embedding with numbers that are not finite")
    return vectors


def _vector(entry: Mapping[str, object]) -> Float32:
    """Return one vector: servers that do not know base64 send numbers."""
    embedding = entry["embedding"]
    if isinstance(embedding, str):
        packed = base64.b64decode(embedding, validate=True)
        return np.frombuffer(packed, dtype="<f4").astype(np.float32)
    return np.array(embedding, dtype=np.float32)
