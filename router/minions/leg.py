"""One of the two models behind a virtual one, asked through the router's own replica choice.

Every request of a leg is a request like a client's: picked, retried, counted, and one line in the
traffic log, with the id and the headers of the request it is part of.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.attempt import Answer
from router.base import Query
from router.call import Call
from router.error_answers import status_of
from router.errors import LegError, RouterError
from router.metrics import RouterMetrics
from router.minions.asking import Message, Reply, Schema
from router.minions.bounded_schema import bounded
from router.minions.config import MinionsConfig
from router.traffic_log import RequestRecord, TrafficLog
from router.usage import UNKNOWN, read_usage

TARGET = "/v1/chat/completions"

logger = logging.getLogger(__name__)


class Routes(Protocol):
    """What a leg needs of the router."""

    async def route(
        self, call: Call, record: RequestRecord, *, models: Sequence[str] = ()
    ) -> Answer:
        """Return an answer of one of the models' replicas; the caller closes it."""
        ...


@dataclass(frozen=True, slots=True)
class Services:
    """What legs share."""

    router: Routes
    traffic_log: TrafficLog
    metrics: RouterMetrics
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


class Leg:
    """Asks one model on behalf of one request."""

    def __init__(
        self,
        model: str,
        services: Services,
        config: MinionsConfig,
        *,
        parent: RequestRecord,
        headers: tuple[tuple[str, str], ...],
        sampling: Mapping[str, object],
    ) -> None:
        """Take the request it is part of, its headers for replicas, and its sampling fields."""
        self._model = model
        self._services = services
        self._config = config
        self._parent = parent
        self._headers = headers
        self._sampling = sampling

    async def __call__(
        self, messages: Sequence[Message], *, max_tokens: int, schema: Schema | None = None
    ) -> Reply:
        """Return the model's reply, read whole.

        Raises:
            LegError: If no replica answers, or the answer is a refusal or no chat completion.
        """
        services = self._services
        self._parent.has_legs = True
        record = RequestRecord(
            arrival_unix_seconds=services.wall(),
            arrived_at=services.monotonic(),
            request_id=self._parent.request_id,
            tenant=self._parent.tenant,
            status=499,  # stands if this is cancelled
        )
        try:
            return await self._answer(self._call(messages, max_tokens, schema), record)
        except LegError as error:
            logger.info("minions leg failed model=%s status=%d", error.model, record.status)
            raise
        except RouterError as error:
            record.status = status_of(error)
            logger.info("minions leg failed model=%s problem=%s", self._model, error)
            raise LegError(self._model, str(error)) from None
        finally:
            services.metrics.ended(record.model, record.status)
            services.traffic_log.write(record.line(ended_at=services.monotonic()))

    async def _answer(self, call: Call, record: RequestRecord) -> Reply:
        # No fallback: what is asked here goes to the model that the client named, or nowhere.
        answer = await self._services.router.route(call, record, models=(self._model,))
        try:
            record.status = answer.reply.status
            try:
                content = json.loads(answer.reply.body)
            except (ValueError, RecursionError):
                content = None
            record.usage = read_usage(content) or UNKNOWN
        finally:
            answer.close()
        if record.status != 200:
            raise LegError(
                self._model,
                f"a replica answered {record.status}; look at what it logs",
                said=_said(content),
            )
        reply = _read_reply(content, record)
        if reply is None:
            record.status = 502
            raise LegError(
                self._model, "a replica's answer is no chat completion; look at what serves it"
            )
        return reply

    def _call(self, messages: Sequence[Message], max_tokens: int, schema: Schema | None) -> Call:
        fields: dict[str, object] = {
            "model": self._model,
            "messages": list(messages),
            "max_tokens": max_tokens,
            **self._sampling,
        }
        if schema is not None and self._config.json_mode != "none":
            fields["response_format"] = _response_format(self._config, schema)
        return Call(
            target=TARGET,
            headers=self._headers,
            body=json.dumps(fields, ensure_ascii=True).encode(),
            query=Query(model=self._model, fields=fields),
            withholds_usage=False,
        )


def _response_format(config: MinionsConfig, schema: Schema) -> dict[str, object]:
    if config.json_mode == "json_object":
        return {"type": "json_object"}
    if config.text_characters is not None:
        schema = bounded(schema, text_characters=config.text_characters, max_items=config.max_tasks)
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema}}


def _read_reply(content: object, record: RequestRecord) -> Reply | None:
    choices = content.get("choices") if isinstance(content, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return None
    text = message.get("content")
    if text is not None and not isinstance(text, str):
        return None
    return Reply(text or "", record.usage, str(choice.get("finish_reason") or "stop"))


def _said(content: object) -> str:
    """Return an error body's message."""
    error = content.get("error") if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return " ".join(message.split())[:200] if isinstance(message, str) else ""
