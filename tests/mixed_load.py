"""Requests of every kind against one endpoint, clients that leave, and what each may be answered."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import jsonschema
from whole_answers import stream_events, text_of, whole_choices

OVERSIZED_BYTES = 9 << 20
RETRY_AFTER = "1"
UPLOADED_NAME = "uploaded"
"""An adapter that is replaced again and again, and never missing."""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 9}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": name, "parameters": SCHEMA}}
    for name in ("get_name", "get_number")
]
BROKEN: list[tuple[str, dict | bytes, int]] = [
    ("/v1/completions", b'{"model": "tiny", "prompt": ', 400),
    ("/v1/completions", b"[1, 2]", 400),
    ("/v1/completions", b"\xff\xfe", 400),
    ("/v1/completions", b'{"prompt": "a"}', 400),
    ("/v1/completions", {"prompt": "ab, " * 3000, "max_tokens": 9}, 400),
    ("/v1/completions", {"prompt": "a", "temperature": -1}, 400),
    ("/v1/completions", {"prompt": "a", "best_of": 3}, 400),
    ("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "("}}, 400),
    ("/v1/completions", {"prompt": "a", "model": "no such model"}, 404),
    ("/v1/chat/completions", {"messages": []}, 400),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "n": 1000}, 400),
    ("/v1/embeddings", {"input": "a", "dimensions": 3}, 400),
    ("/v1/load_lora_adapter", {"lora_name": "broken", "lora_path": "/no/such/folder"}, 400),
    ("/v1/unload_lora_adapter", {"lora_name": "never loaded"}, 404),
    ("/v1/models", {}, 405),
    ("/v1/no/such/path", {}, 404),
]


@dataclass
class Service:
    """What the load is told of the endpoint: adapters it may name, and outages, planned ones all."""

    model_names: list[str] = field(default_factory=lambda: [UPLOADED_NAME])
    is_out: bool = False
    num_outages: int = 0

    def begin_outage(self) -> None:
        self.is_out = True
        self.num_outages += 1

    def end_outage(self) -> None:
        self.is_out = False

    def may_fail_since(self, num_outages: int) -> bool:
        """Whether there is an outage, or was one since there had been `num_outages`."""
        return self.is_out or self.num_outages > num_outages


@dataclass
class Seen:
    """What came of the requests."""

    counts: Counter[tuple[str, int | str]] = field(default_factory=Counter)
    """By kind, and status or way of leaving."""
    failures: list[str] = field(default_factory=list)
    """Answers that should not have been."""

    def num(self, status: int | str) -> int:
        return sum(count for (_, seen), count in self.counts.items() if seen == status)


class Visitor:
    """One client: sends one random request after the other and checks each answer."""

    def __init__(
        self, client: httpx.AsyncClient, service: Service, seen: Seen, draws: random.Random
    ) -> None:
        self._client = client
        self._service = service
        self._seen = seen
        self._draws = draws
        self._kinds: dict[Callable[[], Awaitable[None]], int] = {
            self.complete: 30,
            self.chat: 20,
            self.respond: 5,
            self.embed: 8,
            self.tokenize: 8,
            self.look_around: 5,
            self.leave_a_stream: 10,
            self.leave_at_once: 5,
            self.leave_within_the_body: 2,
            self.break_rules: 6,
            self.send_too_much: 1,
        }

    async def visit(self) -> None:
        """Send one request of a random kind; an answer that should not be is a failure."""
        if self._service.is_out:
            await asyncio.sleep(self._draws.uniform(0, 2 * int(RETRY_AFTER)))
        (kind,) = self._draws.choices(list(self._kinds), weights=list(self._kinds.values()))
        try:
            await kind()
        except (AssertionError, httpx.HTTPError, jsonschema.ValidationError) as error:
            self._seen.failures.append(f"{kind.__name__}: {type(error).__name__} {error}"[:2000])

    async def complete(self) -> None:
        """One to three prompts, scored, repeated, held to a schema, or plain."""
        body = self._sampled(prompt=self._prompt())
        num_choices = body["n"]
        match self._draws.randrange(8):
            case 0:
                body["structured_outputs"] = {"json": SCHEMA}
            case 1:
                body["prompt"] = [body["prompt"], self._text(40), self._text(40)]
                num_choices *= 3
            case 2:
                body["prompt"] = self._draws.choices(range(4, 2000), k=30)
            case 3:
                body |= {"echo": True, "logprobs": 2}
            case 4:
                body |= {"stop": [")", "\n"], "logit_bias": {"17": -100}, "unknown_field": 1}
        if self._draws.random() < 0.2:
            body["logprobs"] = self._draws.randrange(4)
        choices = await self._generated("/v1/completions", body, num_choices)
        if "structured_outputs" in body:
            for text, finish_reason in choices:
                _check_schema(text, finish_reason)

    async def chat(self) -> None:
        """A conversation: plain, held to a schema, or with tools."""
        body = self._sampled(messages=[{"role": "user", "content": self._text(120)}])
        is_schema = False
        match self._draws.randrange(6):
            case 0:
                form = {"name": "thing", "schema": SCHEMA}
                body["response_format"] = {"type": "json_schema", "json_schema": form}
                is_schema = True
            case 1:
                named = {"type": "function", "function": {"name": "get_name"}}
                choice = self._draws.choice(["required", "auto", named])
                body |= {"tools": TOOLS, "tool_choice": choice}
            case 2:
                body |= {"logprobs": True, "top_logprobs": self._draws.randrange(4)}
        for text, finish_reason in await self._generated("/v1/chat/completions", body, body["n"]):
            if is_schema:
                _check_schema(text, finish_reason)

    async def respond(self) -> None:
        """The responses API."""
        tokens = self._draws.randint(16, 60)
        body = {"model": self._model(), "input": self._text(100), "max_output_tokens": tokens}
        body |= {"temperature": self._draws.choice([0, 0.8])}
        is_streamed = self._draws.random() < 0.5
        num_outages = self._service.num_outages
        status, answer = await self._ask("/v1/responses", body | {"stream": is_streamed})
        if status == 200 and is_streamed:
            kinds = [line.removeprefix("event: ") for line in answer.split("\n")]
            kinds = [kind for kind in kinds if kind.startswith(("response.", "error"))]
            whole = ("response.completed", "response.incomplete")
            assert kinds[-1] in whole or self._service.may_fail_since(num_outages), answer[-300:]
        elif status == 200:
            assert json.loads(answer)["status"] in ("completed", "incomplete")

    async def embed(self) -> None:
        """One to four texts as vectors; there may be no room in the KV memory."""
        texts = [self._text(200) for _ in range(self._draws.randint(1, 4))]
        form = self._draws.choice(["float", "base64"])
        body = {"model": self._model(), "input": texts, "encoding_format": form}
        status, answer = await self._ask("/v1/embeddings", body, {429})
        if status == 200:
            assert len(json.loads(answer)["data"]) == len(texts)

    async def tokenize(self) -> None:
        """There and back."""
        text = self._text(300)
        status, answer = await self._ask("/tokenize", {"prompt": text, "add_special_tokens": False})
        if status == 200:
            ids = json.loads(answer)["tokens"]
            status, answer = await self._ask("/detokenize", {"tokens": ids})
            assert status != 200 or json.loads(answer)["prompt"] == text

    async def look_around(self) -> None:
        """What monitors ask."""
        path = self._draws.choice(["/v1/models", "/metrics", "/version", "/health"])
        await self._judged(path, self._client.get(path), {200})

    async def leave_a_stream(self) -> None:
        """Go away within the answer."""
        body = self._sampled(prompt=self._prompt()) | {"stream": True, "ignore_eos": True}
        body["max_tokens"] = self._draws.randint(40, 200)
        num_lines = self._draws.randint(1, 20)
        num_outages = self._service.num_outages
        async with self._client.stream("POST", "/v1/completions", json=body) as answer:
            self._check("leave within", answer, _expected(body), num_outages)
            async for _ in answer.aiter_lines():
                num_lines -= 1
                if num_lines == 0:
                    break

    async def leave_at_once(self) -> None:
        """Go away before the first byte of the answer, mostly."""
        body = self._sampled(prompt=self._text(400)) | {"max_tokens": 300, "ignore_eos": True}
        num_outages = self._service.num_outages
        asking = asyncio.create_task(self._client.post("/v1/completions", json=body))
        await asyncio.wait({asking}, timeout=self._draws.uniform(0, 0.2))
        asking.cancel()
        await asyncio.wait({asking})
        if asking.cancelled():
            self._seen.counts["leave before", "left"] += 1
        else:
            self._check("leave before", asking.result(), _expected(body), num_outages)

    async def leave_within_the_body(self) -> None:
        """Promise more than is sent."""
        url = urlsplit(str(self._client.base_url))
        _, writer = await asyncio.open_connection(url.hostname, url.port)
        head = "POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 4096\r\n\r\n"
        writer.write(head.encode() + b'{"model": "tiny", "prompt": "' + b"a" * 900)
        await writer.drain()
        await asyncio.sleep(self._draws.uniform(0, 0.1))
        writer.close()
        self._seen.counts["leave in body", "left"] += 1

    async def break_rules(self) -> None:
        """What is refused, each with its own status."""
        path, content, status = self._draws.choice(BROKEN)
        if isinstance(content, dict):
            content = json.dumps({"model": "tiny"} | content).encode()
        await self._judged(f"broken {path}", self._client.post(path, content=content), {status})

    async def send_too_much(self) -> None:
        """A body above the limit, all at once or bit by bit."""
        body: Any = b'{"prompt": "' + b"a" * OVERSIZED_BYTES
        if self._draws.random() < 0.5:
            body = _in_parts(body)
        sent = self._client.post("/v1/completions", content=body)
        await self._judged("oversized", sent, {413})

    def _sampled(self, **fields: Any) -> dict[str, Any]:
        return fields | {
            "model": self._model(),
            "max_tokens": self._draws.randint(1, 80),
            "temperature": self._draws.choice([0, 0.8]),
            "n": self._draws.choice([1, 1, 1, 2, 3]),
            "seed": self._draws.randrange(1000),
        }

    def _model(self) -> str:
        return self._draws.choice(["tiny", *self._service.model_names])

    def _text(self, most_letters: int) -> str:
        letters = "abcdef(): \nimport return é"
        return "".join(self._draws.choices(letters, k=self._draws.randint(1, most_letters)))

    def _prompt(self) -> str:
        """Return a text that may begin as others do, so that they share pages."""
        start = '"""A module."""\n\nimport os\nimport sys\n\n\n' * self._draws.randrange(3)
        return start + self._text(150)

    async def _generated(
        self, path: str, body: dict[str, Any], num_choices: int
    ) -> list[tuple[str, str]]:
        """Return each choice's text and why it ended; none where the endpoint could not answer."""
        is_streamed = self._draws.random() < 0.6
        num_outages = self._service.num_outages
        # To score a prompt takes memory at once.
        more = {429} if body.get("echo") else set()
        status, answer = await self._ask(path, body | {"stream": is_streamed}, more)
        if status != 200:
            return []
        if not is_streamed:
            choices = json.loads(answer)["choices"]
            assert len(choices) == num_choices, answer
            return [(text_of(choice), choice["finish_reason"]) for choice in choices]
        events = stream_events(answer)
        if (error := events[-1].get("error")) is not None:
            assert error["code"] == 503, error
            assert self._service.may_fail_since(num_outages), error
            self._seen.counts[path, "cut short"] += 1
            return []
        return whole_choices(events, num_choices)

    async def _ask(
        self, path: str, body: dict[str, Any], more: Collection[int] = ()
    ) -> tuple[int, str]:
        """Send a sound request."""
        expected = _expected(body) | {*more}
        return await self._judged(path, self._client.post(path, json=body), expected)

    async def _judged(
        self, kind: str, sent: Awaitable[httpx.Response], expected: Collection[int]
    ) -> tuple[int, str]:
        """Return status and text of an answer that may be what it is."""
        num_outages = self._service.num_outages
        answer = await sent
        self._check(kind, answer, expected, num_outages)
        if answer.status_code >= 400:
            assert answer.json()["error"]["code"] == answer.status_code
        return answer.status_code, answer.text

    def _check(
        self, kind: str, answer: httpx.Response, expected: Collection[int], num_outages: int
    ) -> None:
        """Count an answer, and compare its status with what the service's state allows."""
        status = answer.status_code
        self._seen.counts[kind, status] += 1
        allowed = {*expected} | ({503} if self._service.may_fail_since(num_outages) else set())
        assert status in allowed, f"{kind}: {status}, not one of {allowed}"
        if status in (429, 503):
            assert answer.headers["retry-after"] == RETRY_AFTER
        assert "x-request-id" in answer.headers


def _expected(body: dict[str, Any]) -> set[int]:
    """Return what a sound request may be answered; most adapters come and go meanwhile."""
    return {200} if body.get("model", "tiny") in ("tiny", UPLOADED_NAME) else {200, 404}


def _check_schema(text: str, finish_reason: str) -> None:
    assert finish_reason in ("stop", "length")
    if finish_reason == "stop":
        jsonschema.validate(json.loads(text), SCHEMA)


async def _in_parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 1 << 16):
        yield content[start : start + (1 << 16)]
