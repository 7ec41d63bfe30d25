"""The embedding of a request's prompt, fetched while the request waits, and never for long.

Whatever goes wrong, the request goes on without: it is counted
(`motley_router_embedding_failures_total`) and told once a minute. A server that fails time and again is
left alone by the rules of a replica's circuit breaker, so that requests do not wait for it in vain.
Texts are never logged.
"""

import logging
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from planner.key_file import read_key
from router.breaker import Breaker
from router.choice_config import EmbeddingsConfig, ModelChoiceConfig
from router.choice_metrics import ChoiceMetrics
from router.errors import EmbeddingError, ReplicaError, ReplicaTimeoutError
from router.faults_config import BreakerConfig
from router.prediction.embedding import (
    PATH,
    REFUSED_STATUSES,
    embedding_text,
    embeddings_body,
    read_embeddings,
)
from router.prediction.embedding_map import EmbeddingMap
from router.prediction.predictor import Predictor
from router.upstream import Upstream

logger = logging.getLogger(__name__)

Float32 = NDArray[np.float32]

TELL_SECONDS = 60.0
_CONTENT_TYPE = ("content-type", "application/json")


class Embedder:
    """Asks the configured server for what a predictor looks at."""

    def __init__(
        self,
        config: EmbeddingsConfig,
        wanted: EmbeddingMap,
        upstream: Upstream,
        metrics: ChoiceMetrics,
        *,
        key: str | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Embed as `wanted` was fitted; `key` is the server's and goes nowhere else."""
        self._config = config
        self._model = config.model or wanted.model
        self._length = wanted.length
        key_headers = () if key is None else (("authorization", f"Bearer {key}"),)
        self._headers = (_CONTENT_TYPE, *key_headers)
        self._upstream = upstream
        self._metrics = metrics
        self._monotonic = monotonic
        self._breaker = Breaker(BreakerConfig(), monotonic=monotonic)
        self._told_at = float("-inf")

    async def embed(self, text: str) -> Float32 | None:
        """Return a prompt's embedding; None: it is empty, or could not be had."""
        text = embedding_text(text)
        if not text:
            return None
        if not self._breaker.admits():
            self._fail("paused", "it failed several times; it is asked again in a while")
            return None
        epoch = self._breaker.begin()
        try:
            vector = await self._ask(text)
        except (ReplicaError, EmbeddingError) as error:
            self._breaker.failed(epoch)
            self._fail(_reason(error), error)
            return None
        except BaseException:
            self._breaker.given_up(epoch)
            raise
        self._breaker.succeeded(epoch)
        return vector

    async def _ask(self, text: str) -> Float32 | None:
        """Return the embedding; None: the text was refused.

        Raises:
            ReplicaError: If there is no answer in time.
            EmbeddingError: If there is one that cannot be used.
        """
        reply = await self._upstream.send(
            self._config.url,
            PATH,
            headers=self._headers,
            body=embeddings_body(self._model, [text]),
            timeout_seconds=self._config.timeout_seconds,
        )
        reply.close()
        if reply.status in REFUSED_STATUSES:
            self._fail("refused", f"status {reply.status}")
            return None
        if reply.status != 200 or reply.is_stream:
            raise EmbeddingError(f"answered no embedding, status {reply.status}")
        return read_embeddings(reply.body, num_texts=1, length=self._length)[0]

    def _fail(self, reason: str, problem: object) -> None:
        self._metrics.embedding_failed(reason)
        now = self._monotonic()
        if now - self._told_at >= TELL_SECONDS:
            self._told_at = now
            logger.warning(
                "no embedding, judging by words alone url=%s reason=%s problem=%s",
                self._config.url,
                reason,
                problem,
            )


def _reason(error: ReplicaError | EmbeddingError) -> str:
    if isinstance(error, EmbeddingError):
        return "unusable"
    return "timeout" if isinstance(error, ReplicaTimeoutError) else "unreachable"


def make_embedder(
    choice: ModelChoiceConfig,
    predictor: Predictor | None,
    upstream: Upstream,
    metrics: ChoiceMetrics,
) -> Embedder | None:
    """Return who embeds prompts for the predictor; None: it looks at none, or nobody does.

    Raises:
        DocumentError: If the key's file cannot be read.
    """
    config, wanted = choice.embeddings, None if predictor is None else predictor.embedding
    if wanted is None:
        if config is not None:
            logger.warning(
                "model_choice.embeddings not used, the predictor looks at none url=%s", config.url
            )
        return None
    if config is None:
        logger.warning(
            "model_choice.embeddings missing, judging by words alone predictor=%s model=%s",
            choice.predictor,
            wanted.model,
        )
        return None
    key = None if config.api_key_file is None else read_key(config.api_key_file)
    return Embedder(config, wanted, upstream.without_keys(), metrics, key=key)
