"""Embeddings: the target's pooled hidden state.

A model that answers was not trained to embed: these vectors are the mean over a text's tokens of
the last hidden states behind the final norm, scaled to length 1. They tell texts apart that differ
in subject; an embedding model does it better.
"""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from serving import unsupported_fields
from serving.errors import UnsupportedError

MOST_INPUTS = 2048
"""Texts of one request; OpenAI's limit."""


class EmbeddingsBody(BaseModel):
    """Body of `POST /v1/embeddings`."""

    model_config = ConfigDict(extra="allow")

    model: str
    input: str | list[int] | list[str] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    def refuse_unsupported(self) -> None:
        """Raise for fields that would change the vectors; `dimensions`: a hidden state has its size.

        Raises:
            UnsupportedError: Names the field.
        """
        unsupported_fields.refuse_unsupported(self.model_extra)
        if self.dimensions is not None:
            raise UnsupportedError(
                f"dimensions {self.dimensions} is not supported; leave it out", param="dimensions"
            )


class Embedding(BaseModel):
    """One vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str
    """Numbers, or little-endian float32 in base64."""


class EmbeddingUsage(BaseModel):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Answer of `POST /v1/embeddings`."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def embedding(index: int, pooled: Sequence[float], encoding: str) -> Embedding:
    """Return a pooled state as one vector of length 1."""
    norm = math.sqrt(math.fsum(value * value for value in pooled)) or 1.0
    values = [value / norm for value in pooled]
    if encoding == "base64":
        packed = base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
        return Embedding(index=index, embedding=packed)
    return Embedding(index=index, embedding=values)
