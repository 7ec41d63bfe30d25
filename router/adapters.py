"""Adapter commands: to every replica of the base model.

`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter` have vLLM's bodies, `{lora_name, lora_path}`
and `{lora_name}`; `POST /admin/adapters/NAME` is an upload, which waits on disk until every replica
has it. All are forwarded unchanged, keys too: the replicas judge them. They do not name the base
model: with several models the query parameter `model` does.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from router.call import read_object, read_text_field
from router.errors import (
    AdapterError,
    NoHealthyReplicaError,
    ParameterError,
    ReplicaError,
    TooManyUploadsError,
    UnknownModelError,
)
from router.exchange import headers_for_client, headers_for_replica, read_body
from router.fleet import Fleet
from router.health import HealthMonitor
from router.spool import Spool, spooled
from router.upstream import Upstream, UpstreamReply

logger = logging.getLogger(__name__)

LIST_PATH = "/admin/adapters"

MOST_UPLOADS = 2
"""Bodies on disk at once; each may be as large as an adapter."""

Outcomes = dict[str, UpstreamReply | ReplicaError]
"""What became of a command, by replica."""

_NOT_ASKED = "is out of service and was not asked: send it the command itself when it is back"


class UploadPlaces:
    """How many bodies are on disk."""

    def __init__(self) -> None:
        self.num_taken = 0


class Adapters:
    """Forwards adapter commands and tells which replica did not take one."""

    def __init__(
        self,
        fleet: Fleet,
        monitor: HealthMonitor,
        upstream: Upstream,
        places: UploadPlaces,
        *,
        max_body_bytes: int,
        max_upload_bytes: int,
        list_seconds: float,
        spool_folder: Path | None = None,
    ) -> None:
        self._fleet = fleet
        self._monitor = monitor
        self._upstream = upstream
        self._max_body_bytes = max_body_bytes
        self._max_upload_bytes = max_upload_bytes
        self._list_seconds = list_seconds
        self._places = places
        self._spool_folder = spool_folder

    async def load(self, request: Request) -> Response:
        """Have every healthy replica load `lora_name` from `lora_path`, a folder of its own."""
        return await self._forward(request, ("lora_name", "lora_path"))

    async def unload(self, request: Request) -> Response:
        """Have every healthy replica drop `lora_name`."""
        return await self._forward(request, ("lora_name",))

    async def upload(self, request: Request) -> Response:
        """Have every healthy replica that lets the client in take the adapter of the body.

        They are asked before the body is read: nobody without a key fills the disk. One that takes
        no uploads is sent no body: it says why in words of its own.
        """
        model = self._base_model(request.query_params.get("model"))
        outcomes = await self._list(model, request)
        admitting = {url: _most_bytes(each) for url, each in outcomes.items() if not _problem(each)}
        limits = {url: limit for url, limit in admitting.items() if limit is not None}
        if limits:
            async with self._spooled(request, min(limits.values())) as spool:
                outcomes |= await self._ask([*limits], request, "POST", _path(request), spool)
        refusing = [url for url in admitting if url not in limits]
        outcomes |= await self._ask(refusing, request, "POST", _path(request))
        return await self._finish(request, request.path_params["name"], model, outcomes)

    async def remove(self, request: Request) -> Response:
        """Have every healthy replica drop an adapter."""
        model = self._base_model(request.query_params.get("model"))
        outcomes = await self._ask(self._healthy(model), request, "DELETE", _path(request))
        return await self._finish(request, request.path_params["name"], model, outcomes)

    async def list_all(self, request: Request) -> Response:
        """List each replica's adapters; those that do not answer stand under `failures`."""
        model = self._base_model(request.query_params.get("model"))
        outcomes = await self._list(model, request)
        failures = self._failures(model, outcomes)
        if all(url in failures for url in outcomes):
            return _summary(model, outcomes, failures)
        cards = [
            {**card, "replica": url}
            for url, each in outcomes.items()
            if isinstance(each, UpstreamReply) and url not in failures
            for card in _cards(each)
        ]
        limits = [_most_bytes(each) for url, each in outcomes.items() if url not in failures]
        known = [limit for limit in limits if limit is not None]
        most = min(self._max_upload_bytes, *known) if known else None
        content = {"object": "list", "data": cards, "max_upload_bytes": most}
        return JSONResponse(content | {"failures": failures})

    async def _forward(self, request: Request, required: tuple[str, ...]) -> Response:
        body = await read_body(request.scope, request.receive, max_body_bytes=self._max_body_bytes)
        fields = read_object(body)
        names = [read_text_field(fields, field) for field in required]
        model = self._base_model(request.query_params.get("model"))
        outcomes = await self._ask(self._healthy(model), request, "POST", _path(request), body)
        return await self._finish(request, names[0], model, outcomes)

    async def _finish(
        self, request: Request, adapter: str, model: str, outcomes: Outcomes
    ) -> Response:
        """Learn what the replicas serve now, and tell how the command went."""
        failures = self._failures(model, outcomes)
        await self._monitor.refresh()
        logger.info(
            "adapter command method=%s path=%s adapter=%r model=%s num_replicas=%d num_failed=%d",
            request.method,
            _path(request),
            adapter,
            model,
            len(outcomes),
            len(failures),
        )
        return _summary(model, outcomes, failures)

    def _failures(self, model: str, outcomes: Outcomes) -> dict[str, str]:
        """Return what went wrong, by replica; those out of service are among them.

        Back again such a replica would lack the adapter, unnoticed.
        """
        urls = [replica.url for replica in self._fleet.configured(model)]
        absent = {url: _NOT_ASKED for url in urls if url not in outcomes}
        told = {url: _problem(each) for url, each in outcomes.items()}
        return {url: problem for url, problem in told.items() if problem} | absent

    def _base_model(self, asked: str | None) -> str:
        known = self._fleet.base_models
        if asked is None and len(known) == 1:
            return known[0]
        if asked is None:
            raise ParameterError("model", f"add ?model=NAME with one of: {', '.join(known)}")
        if asked not in known:
            raise UnknownModelError(asked, known)
        return asked

    def _healthy(self, model: str) -> list[str]:
        replicas = self._fleet.configured(model)
        healthy = [replica.url for replica in replicas if replica.is_healthy]
        if not healthy:
            raise NoHealthyReplicaError(model, num_replicas=len(replicas))
        return healthy

    async def _list(self, model: str, request: Request) -> Outcomes:
        return await self._ask(
            self._healthy(model), request, "GET", LIST_PATH, timeout_seconds=self._list_seconds
        )

    @asynccontextmanager
    async def _spooled(self, request: Request, most_bytes: int) -> AsyncGenerator[Spool]:
        if self._places.num_taken >= MOST_UPLOADS:
            raise TooManyUploadsError(MOST_UPLOADS)
        self._places.num_taken += 1
        try:
            async with spooled(
                request.scope,
                request.receive,
                max_body_bytes=min(most_bytes, self._max_upload_bytes),
                folder=self._spool_folder,
            ) as spool:
                yield spool
        finally:
            self._places.num_taken -= 1

    async def _ask(
        self,
        urls: list[str],
        request: Request,
        method: str,
        path: str,
        body: bytes | Spool = b"",
        *,
        timeout_seconds: float | None = None,
    ) -> Outcomes:
        headers = headers_for_replica(request.scope)

        async def send(url: str) -> UpstreamReply | ReplicaError:
            try:
                reply = await self._upstream.send(
                    url,
                    path,
                    headers=headers,
                    body=body,
                    method=method,
                    timeout_seconds=timeout_seconds,
                )
            except ReplicaError as error:
                return error
            reply.close()  # what refuses an upload early is sent no more of it
            return reply

        return dict(zip(urls, await asyncio.gather(*map(send, urls)), strict=True))


def _summary(model: str, outcomes: Outcomes, failures: dict[str, str]) -> Response:
    """Return success, the refusal all replicas agree on, or raise for those that failed."""
    if not failures:
        return JSONResponse({"status": "ok", "model": model, "replicas": list(outcomes)})
    refusals = [each for each in outcomes.values() if isinstance(each, UpstreamReply)]
    statuses = {refusal.status for refusal in refusals}
    if len(refusals) == len(outcomes) and len(statuses) == 1 and 400 <= min(statuses) < 500:
        return _copy(refusals[0])
    done = [url for url in outcomes if url not in failures]
    raise AdapterError(failures, done=done)


def _path(request: Request) -> str:
    """Return the path as the client sent it; the query is the router's."""
    raw: bytes = request.scope["raw_path"]
    return raw.decode("latin-1")


def _listing(reply: UpstreamReply) -> dict[str, object]:
    try:
        content = json.loads(reply.body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _cards(reply: UpstreamReply) -> list[dict[str, object]]:
    found = _listing(reply).get("data")
    return [card for card in found if isinstance(card, dict)] if isinstance(found, list) else []


def _most_bytes(outcome: UpstreamReply | ReplicaError) -> int | None:
    """Return the largest upload a replica takes; None where it takes none."""
    if isinstance(outcome, ReplicaError):
        return None
    limit = _listing(outcome).get("max_upload_bytes")
    return limit if isinstance(limit, int) else None


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
