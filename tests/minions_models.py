"""Deterministic models by script, over real HTTP, and a document with planted facts."""

import asyncio
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from fakes import LoopbackServer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

Messages = list[dict[str, str]]
Script = Callable[[Messages], str]
"""The conversation → the model's reply."""

CHARACTERS_A_TOKEN = 4
QUESTION = "What is the access word of every depot?"
_FACT = re.compile(r"the access word of depot (\w+) is (\w+)")
_WORDS = re.findall(
    r"\w+",
    "the of and to in a is that for it as was with be by on not he his but at are this have from "
    "which one had they you were all her she there would their we him been has when who will more "
    "goods rail harbour season ledger winter carriage timber station office report letter grain",
)


def num_tokens(text: str) -> int:
    """Return the tokens of a text in the scripted models' tokenizer."""
    return -(-len(text) // CHARACTERS_A_TOKEN)


def planted_document(*, tokens: int, num_facts: int, seed: int = 0) -> tuple[str, dict[str, str]]:
    """Return prose of `tokens` tokens with facts at random places, and the facts."""
    draw = random.Random(seed)
    facts = {
        f"D{number:02}x{draw.randrange(999)}": f"w{draw.randrange(10**6):06}"
        for number in range(num_facts)
    }
    sentences: list[str] = []
    size = 0
    planted = [
        f"Note that the access word of depot {name} is {word}." for name, word in facts.items()
    ]
    budget = tokens * CHARACTERS_A_TOKEN - sum(len(sentence) + 1 for sentence in planted)
    while size < budget:
        sentence = " ".join(draw.choices(_WORDS, k=draw.randint(8, 20))).capitalize() + "."
        sentences.append(sentence + "\n\n" * (draw.random() < 0.15))
        size += len(sentences[-1]) + 1
    for sentence in planted:
        sentences.insert(draw.randrange(len(sentences)), sentence)
    return " ".join(sentences), facts


def finding(answer: str | None, citation: str | None = None) -> str:
    """Return a job's reply."""
    return json.dumps({"explanation": "It says so.", "citation": citation, "answer": answer})


def verdict(decision: str, answer: str | None = None, **more: object) -> str:
    """Return a remote's reply to findings."""
    return json.dumps({"explanation": "e", "decision": decision, "answer": answer} | more)


def plan(*tasks: dict[str, object], fold: str = "by_task") -> str:
    """Return a task list."""
    return json.dumps({"tasks": list(tasks), "fold": fold})


EVERY_WORD = {
    "task": "List every depot with its access word",
    "advice": "They stand in sentences of their own",
    "chunks": {"kind": "all"},
}


def read_part(messages: Messages) -> str:
    """Answer a job truly: the depots and access words of its part."""
    found = _FACT.findall(messages[-1]["content"].partition("\n\nTask:")[0])
    text = "; ".join(f"{name}={word}" for name, word in found)
    return finding(text or None, text and f"depot {found[0][0]} is {found[0][1]}")


def is_planning(messages: Messages) -> bool:
    """Return whether the remote is asked for tasks."""
    return "tasks times chunks" in messages[1]["content"]


def is_advising(messages: Messages) -> bool:
    """Return whether the remote is asked what to look for."""
    return "three plain sentences" in messages[-1]["content"]


def direct(messages: Messages) -> str:
    """Answer as an able remote: one task on all chunks, then everything that was found."""
    if is_advising(messages):
        return "Every depot and its access word."
    if is_planning(messages):
        return plan(EVERY_WORD)
    found = re.findall(r"\w+=\w+", messages[-1]["content"])
    return verdict("final", "; ".join(found)) if found else verdict("need_more", None)


def directing(*, plans: str | None = None, verdicts: str | None = None) -> Script:
    """Return an able remote with some of its replies replaced."""

    def reply(messages: Messages) -> str:
        if is_advising(messages):
            return direct(messages)
        instead = plans if is_planning(messages) else verdicts
        return direct(messages) if instead is None else instead

    return reply


@dataclass
class ScriptedModel:
    """An OpenAI server whose replies are a function of the conversation."""

    model: str
    script: Script
    status: int = 200
    delay_seconds: float = 0.0
    reports_usage: bool = True
    requests: list[dict[str, object]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    num_running: int = 0
    most_running: int = 0
    num_cancelled: int = 0
    total_tokens: int = 0
    url: str = ""

    async def __aenter__(self) -> "ScriptedModel":
        app = Starlette(
            routes=[
                Route("/health", lambda request: Response()),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
            ]
        )
        self._server = LoopbackServer(app)
        self.url = await self._server.start()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._server.stop()

    def kill(self) -> None:
        """Die as a killed process does."""
        self._server.kill()

    async def _models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def _complete(self, request: Request) -> Response:
        fields = json.loads(await request.body())
        self.requests.append(fields)
        self.headers.append(dict(request.headers))
        self.num_running += 1
        self.most_running = max(self.most_running, self.num_running)
        try:
            if await self._is_left(request):
                return Response(status_code=499)
        finally:
            self.num_running -= 1
        if self.status != 200:
            body = {"error": {"message": "scripted refusal", "code": self.status}}
            return JSONResponse(body, self.status)
        text = self.script(fields["messages"])
        prompt = sum(num_tokens(message["content"]) + 4 for message in fields["messages"])
        usage = {"prompt_tokens": prompt, "completion_tokens": num_tokens(text)}
        self.total_tokens += sum(usage.values())
        message = {"role": "assistant", "content": text}
        content = {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        return JSONResponse(content | {"usage": usage} if self.reports_usage else content)

    async def _is_left(self, request: Request) -> bool:
        """Wait, or return True as soon as the client disconnects."""
        if not self.delay_seconds:
            return False
        try:
            async with asyncio.timeout(self.delay_seconds):
                while (await request.receive())["type"] != "http.disconnect":
                    pass
        except TimeoutError:
            return False
        self.num_cancelled += 1
        return True
