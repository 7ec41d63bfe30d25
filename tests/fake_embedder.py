"""A server of embeddings with attributes to change."""

import asyncio
import base64
from dataclasses import dataclass, field

from embedded_prompts import embedding_of
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route


@dataclass
class FakeEmbedder:
    """Embeds disguised prompts as `embedded_prompts.embedding_of` does."""

    model: str = "embedder"
    key: str | None = None
    """What a request must carry."""
    knows_base64: bool = True
    most_characters: int | None = None
    """Longer texts are refused, and the whole request with them."""
    length: int | None = None
    """Numbers that are sent of each vector; None: all."""
    status: int = 200
    delay_seconds: float = 0.0
    bodies: list[dict[str, object]] = field(default_factory=list)

    @property
    def app(self) -> Starlette:
        """The server."""
        return Starlette(routes=[Route("/v1/embeddings", self._embed, methods=["POST"])])

    async def _embed(self, request: Request) -> Response:
        fields = await request.json()
        self.bodies.append(fields)
        await asyncio.sleep(self.delay_seconds)
        if self.key is not None and request.headers.get("authorization") != f"Bearer {self.key}":
            return _refusal(401, "no such key")
        if fields["model"] != self.model:
            return _refusal(404, f"no model {fields['model']}")
        if self.status != 200:
            return _refusal(self.status, "out of order")
        texts = fields["input"]
        most = self.most_characters
        if most is not None and any(len(text) > most for text in texts):
            return _refusal(400, "too long")
        data = [
            {"index": index, "embedding": self._vector(text)} for index, text in enumerate(texts)
        ]
        return JSONResponse({"data": data[::-1], "model": self.model})

    def _vector(self, text: str) -> object:
        vector = embedding_of(text)[: self.length]
        if self.knows_base64:
            return base64.b64encode(vector.astype("<f4").tobytes()).decode()
        return vector.tolist()


def _refusal(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status_code=status)
