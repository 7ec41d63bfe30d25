"""A live OpenAI endpoint: streamed completions with times, and what it says of itself."""

import ipaddress
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from planner.errors import EndpointError
from planner.profiling.clock import Clock

Prompt = str | list[int]

_TIMEOUT = httpx.Timeout(600, connect=10)
"""Of one read: a queue in front of the first token may be long."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion as the client saw it."""

    token_seconds: tuple[float, ...] = ()
    """When each piece of text arrived; a piece may hold several tokens."""
    end_seconds: float = 0.0
    """When the stream ended, or the failure was known."""
    input_tokens: int = 0
    output_tokens: int = 0
    failure: str | None = None
    """Why there is no whole answer."""


class _RefusedError(Exception):
    """The endpoint answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"status {status}: {message}")
        self.status = status
        self.message = message


class Endpoint:
    """One model behind one address; `ignores_eos` and `takes_token_ids` are found by `greet`."""

    def __init__(self, client: httpx.AsyncClient, model: str, clock: Clock) -> None:
        """Ask for `model`; the client knows address and key."""
        self._client = client
        self._model = model
        self._clock = clock
        self.ignores_eos = True
        """Whether answers can be made to have exactly the length asked for."""
        self.takes_token_ids = True
        """Whether prompts may be token ids."""

    @property
    def url(self) -> str:
        """Address, for messages."""
        return str(self._client.base_url).rstrip("/")

    async def greet(self) -> None:
        """Find out how the endpoint wants to be asked.

        Raises:
            EndpointError: If it is unreachable, refuses the key or the model, or counts no tokens.
        """
        ids = [256 + number for number in range(8)]
        attempts: tuple[tuple[Prompt, bool], ...] = (
            (ids, True),
            ("one two", True),
            ("one two", False),
        )
        for prompt, ignores_eos in attempts:
            self.takes_token_ids, self.ignores_eos = isinstance(prompt, list), ignores_eos
            try:
                answer = await self._stream(prompt, max_tokens=2)
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
            except _RefusedError as error:
                refusal = error
                if error.status not in (400, 422):
                    break
                continue
            if answer.failure is not None:
                raise EndpointError(f"{self.url}: {answer.failure}")
            return
        raise self._refused(refusal)

    async def complete(self, prompt: Prompt, *, max_tokens: int) -> Answer:
        """Return an answer with its times; a failure is an answer too."""
        try:
            return await self._stream(prompt, max_tokens=max_tokens)
        except (httpx.HTTPError, _RefusedError) as error:
            failure = f"{type(error).__name__.lstrip('_')} {error}".strip()
            return Answer(end_seconds=self._clock.now(), failure=failure)

    async def model_card(self) -> Mapping[str, Any]:
        """Return the model's entry in `/v1/models`, empty where there is none."""
        listed = await self._json("/v1/models")
        cards = listed.get("data")
        for card in cards if isinstance(cards, list) else ():
            if isinstance(card, dict) and card.get("id") == self._model:
                return card
        return {}

    async def version(self) -> Mapping[str, Any]:
        """Return what `/version` says, empty where there is none."""
        return await self._json("/version")

    async def cache_tokens(self) -> int | None:
        """Return the tokens of KV memory from `/metrics`, where a `cache_config_info` tells."""
        try:
            text = (await self._client.get("/metrics")).raise_for_status().text
            families = list(text_string_to_metric_families(text))
        except (httpx.HTTPError, ValueError):
            return None
        for sample in (sample for family in families for sample in family.samples):
            blocks = sample.labels.get("num_gpu_blocks", "")
            size = sample.labels.get("block_size", "")
            if "cache_config_info" in sample.name and blocks.isdigit() and size.isdigit():
                return int(blocks) * int(size)
        return None

    async def _json(self, path: str) -> Mapping[str, Any]:
        try:
            content = (await self._client.get(path)).raise_for_status().json()
        except (httpx.HTTPError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    async def _stream(self, prompt: Prompt, *, max_tokens: int) -> Answer:
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.ignores_eos:
            body["ignore_eos"] = True
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            if response.status_code != 200:
                raise _RefusedError(response.status_code, _message(await response.aread()))
            return await self._read(response.aiter_lines())

    async def _read(self, lines: AsyncIterator[str]) -> Answer:
        times: list[float] = []
        finished = self._clock.now()
        usage: Mapping[str, Any] = {}
        failure: str | None = "the stream ended before its end mark; see the server's log"
        async for line in lines:
            now = self._clock.now()
            if line == "data: [DONE]":
                failure = None
                break
            chunk = _chunk(line)
            if "error" in chunk:
                failure = f"the stream failed: {_short(chunk['error'])}"
                break
            for choice in chunk.get("choices") or ():
                # A token may have no text of its own; a last piece may have no token.
                if choice.get("text") or not choice.get("finish_reason"):
                    times.append(now)
                finished = now
            usage = chunk.get("usage") or usage
        end = self._clock.now()
        if failure is None and "completion_tokens" not in usage:
            failure = (
                "the stream holds no token counts; a profile needs an endpoint that honours "
                "stream_options.include_usage"
            )
        if failure is not None:
            return Answer(end_seconds=end, failure=failure)
        return Answer(
            tuple(times or [finished]), end, usage["prompt_tokens"], usage["completion_tokens"]
        )

    def _unreachable(self, error: httpx.HTTPError) -> EndpointError:
        reason = str(error) or type(error).__name__
        return EndpointError(
            f"{self.url} cannot be reached ({reason}); check the address and that it is serving"
        )

    def _refused(self, error: _RefusedError) -> EndpointError:
        if error.status in (401, 403):
            advice = "set OPENAI_API_KEY to a key it takes"
        elif error.status == 404:
            advice = f"check --model {self._model} and that the address has /v1/completions"
        else:
            advice = "see its log"
        return EndpointError(f"{self.url} refuses requests ({error}); {advice}")


@asynccontextmanager
async def connected(
    url: str, model: str, *, api_key: str | None, clock: Clock
) -> AsyncIterator[Endpoint]:
    """Yield the endpoint at an address, with or without `/v1` at its end.

    Raises:
        EndpointError: If the address is none.
    """
    try:
        address = httpx.URL(url.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise EndpointError(f"{url} is no address ({error}); write http://host:port") from None
    if address.scheme not in ("http", "https") or not address.host:
        raise EndpointError(f"{url} is no address; write http://host:port")
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    async with httpx.AsyncClient(
        base_url=address,
        headers=headers,
        timeout=_TIMEOUT,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        # What runs on this machine is never behind a proxy.
        trust_env=not _is_loopback(address.host),
    ) as client:
        yield Endpoint(client, model, clock)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _chunk(line: str) -> Mapping[str, Any]:
    if not line.startswith("data:"):
        return {}
    try:
        content = json.loads(line.removeprefix("data:"))
    except ValueError:
        return {"error": "a chunk is no JSON"}
    return content if isinstance(content, dict) else {}


def _message(body: bytes) -> str:
    try:
        content = json.loads(body)
        error = content["error"]
        return _short(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return _short(body.decode(errors="replace")) or "no message"


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:197] + "..."
