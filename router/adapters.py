"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`: to every replica of the base model.

The bodies are vLLM's, `{lora_name, lora_path}` and `{lora_name}`, and are forwarded unchanged. They
do not name the base model: with several models the query parameter `model` does.
"""

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.call import read_object, read_text_field
from router.errors import (
    AdapterError,
    NoHealthyReplicaError,
    ParameterError,
    ReplicaError,
    UnknownModelError,
)
from router.exchange import headers_for_client, headers_for_replica, read_body
from router.fleet import Fleet
from router.health import HealthMonitor
from router.upstream import Upstream, UpstreamReply

logger = logging.getLogger(__name__)

_NOT_ASKED = "is out of service and was not asked: send it the command itself when it is back"


class Adapters:
    """Forwards adapter commands and tells which replica did not take one."""

    def __init__(
        self, fleet: Fleet, monitor: HealthMonitor, upstream: Upstream, *, max_body_bytes: int
    ) -> None:
        self._fleet = fleet
        self._monitor = monitor
        self._upstream = upstream
        self._max_body_bytes = max_body_bytes

    async def load(self, request: Request) -> Response:
        """Have every healthy replica load `lora_name` from `lora_path`, a folder of its own."""
        return await self._forward(request, ("lora_name", "lora_path"))

    async def unload(self, request: Request) -> Response:
        """Have every healthy replica drop `lora_name`."""
        return await self._forward(request, ("lora_name",))

    async def _forward(self, request: Request, required: tuple[str, ...]) -> Response:
        body = await read_body(request.scope, request.receive, max_body_bytes=self._max_body_bytes)
        fields = read_object(body)
        names = [read_text_field(fields, field) for field in required]
        model = self._base_model(request.query_params.get("model"))
        outcomes = await self._send_to_healthy(model, request, body)
        urls = [replica.url for replica in self._fleet.configured(model)]
        await self._monitor.refresh()
        logger.info(
            "adapter command path=%s adapter=%s model=%s num_replicas=%d",
            request.url.path,
            names[0],
            model,
            len(outcomes),
        )
        return _summary(model, outcomes, absent=[url for url in urls if url not in outcomes])

    def _base_model(self, asked: str | None) -> str:
        known = self._fleet.base_models
        if asked is None and len(known) == 1:
            return known[0]
        if asked is None:
            raise ParameterError("model", f"add ?model=NAME with one of: {', '.join(known)}")
        if asked not in known:
            raise UnknownModelError(asked, known)
        return asked

    async def _send_to_healthy(
        self, model: str, request: Request, body: bytes
    ) -> dict[str, UpstreamReply | ReplicaError]:
        replicas = self._fleet.configured(model)
        healthy = [replica.url for replica in replicas if replica.is_healthy]
        if not healthy:
            raise NoHealthyReplicaError(model, num_replicas=len(replicas))
        headers = headers_for_replica(request.scope)

        async def send(url: str) -> UpstreamReply | ReplicaError:
            try:
                return await self._upstream.post(url, request.url.path, headers=headers, body=body)
            except ReplicaError as error:
                return error

        return dict(zip(healthy, await asyncio.gather(*map(send, healthy)), strict=True))


def _summary(
    model: str, outcomes: dict[str, UpstreamReply | ReplicaError], *, absent: list[str]
) -> Response:
    """Return success, the refusal all replicas agree on, or raise for those that failed.

    One that was out of service has failed too: back again it would lack the adapter, unnoticed.
    """
    failures = {url: problem for url, each in outcomes.items() if (problem := _problem(each))}
    if not failures and not absent:
        return JSONResponse({"status": "ok", "model": model, "replicas": list(outcomes)})
    refusals = [each for each in outcomes.values() if isinstance(each, UpstreamReply)]
    statuses = {refusal.status for refusal in refusals}
    if len(refusals) == len(outcomes) and len(statuses) == 1 and 400 <= min(statuses) < 500:
        return _copy(refusals[0])
    done = [url for url in outcomes if url not in failures]
    raise AdapterError(failures | dict.fromkeys(absent, _NOT_ASKED), done=done)


def _problem(outcome: UpstreamReply | ReplicaError) -> str | None:
    if isinstance(outcome, ReplicaError):
        return outcome.problem
    if outcome.status == 200:
        return None
    said = outcome.body[:300].decode("utf-8", "replace")
    return " ".join(f"answered {outcome.status}: {said}".split())


def _copy(reply: UpstreamReply) -> Response:
    response = Response(reply.body, status_code=reply.status)
    response.raw_headers.extend(headers_for_client(reply.headers))
    return response
