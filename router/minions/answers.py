"""An outcome in OpenAI's words: a chat completion, or a stream of its chunks.

Beside OpenAI's fields the answer has `minions`: the result that marks it, where the documents came
from, and what went wrong; and in `usage`, which counts both models, a `minions` object that divides it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from router.minions.accounting import Ledger, Side
from router.minions.names import VirtualName
from router.minions.outcome import Outcome
from router.minions.request import Context
from router.sse import data_event

_PIECES = re.compile(r"\S*\s*(?:\S+\s*){0,3}")
"""Four words with their spaces: how a whole answer is cut into a stream's pieces."""


@dataclass(frozen=True, slots=True)
class Answered:
    """Everything an answer tells."""

    name: VirtualName
    context: Context
    outcome: Outcome
    ledger: Ledger
    answer_id: str
    created_unix_seconds: int

    def whole(self) -> dict[str, object]:
        """Return the chat completion."""
        message = {"role": "assistant", "content": self.outcome.answer}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        return {
            **self._head("chat.completion", [choice]),
            "usage": self.usage(),
            "minions": self.mark(),
        }

    def events(self, *, with_usage: bool) -> Iterator[bytes]:
        """Yield the stream's events; the last chunk but the usage carries `minions`."""
        yield self._chunk({"role": "assistant", "content": ""})
        for piece in _PIECES.findall(self.outcome.answer):
            if piece:
                yield self._chunk({"content": piece})
        last = self._head("chat.completion.chunk", [_choice({}, finish_reason="stop")])
        yield data_event(last | {"minions": self.mark()})
        if with_usage:
            yield data_event(self._head("chat.completion.chunk", []) | {"usage": self.usage()})
        yield b"data: [DONE]\n\n"

    def mark(self) -> dict[str, object]:
        """Return how the answer came about."""
        return {
            "result": str(self.outcome.result),
            "synthesised": self.outcome.is_synthesised,
            "context": self.context,
            "local": self.name.local,
            "remote": self.name.remote,
            "problems": list(self.outcome.problems),
        }

    def usage(self) -> dict[str, object]:
        """Return the tokens of both models together, and divided."""
        local, remote = self.ledger.local, self.ledger.remote
        outcome = self.outcome
        return {
            "prompt_tokens": local.prompt_tokens + remote.prompt_tokens,
            "completion_tokens": local.completion_tokens + remote.completion_tokens,
            "total_tokens": local.total_tokens + remote.total_tokens,
            "minions": {
                "local": _side(local),
                "remote": _side(remote),
                "cost_usd": self.ledger.cost_usd,
                "rounds": outcome.num_rounds,
                "jobs": outcome.num_jobs,
                "empty": outcome.num_empty,
                "abstentions": outcome.num_abstained,
                "failed": outcome.num_failed,
            },
        }

    def _chunk(self, delta: dict[str, str]) -> bytes:
        return data_event(self._head("chat.completion.chunk", [_choice(delta)]))

    def _head(self, kind: str, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self.answer_id,
            "object": kind,
            "created": self.created_unix_seconds,
            "model": self.name.model,
            "choices": choices,
        }


def _choice(delta: dict[str, str], *, finish_reason: str | None = None) -> dict[str, object]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _side(side: Side) -> dict[str, object]:
    return {
        "requests": side.num_requests,
        "prompt_tokens": side.prompt_tokens,
        "completion_tokens": side.completion_tokens,
        "total_tokens": side.total_tokens,
        "estimated_requests": side.num_estimated,
        "cost_usd": side.cost_usd,
    }
