"""What the protocols need of a model: one question, one reply."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from router.usage import UNKNOWN, Usage

Message = Mapping[str, str]
"""A chat message: `role` and `content`."""
Schema = Mapping[str, object]
"""A JSON schema."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered."""

    text: str
    usage: Usage = UNKNOWN
    finish_reason: str = "stop"
    """`length` where the answer was cut off."""


class Ask(Protocol):
    """One of the two models."""

    async def __call__(
        self, messages: Sequence[Message], *, max_tokens: int, schema: Schema | None = None
    ) -> Reply:
        """Return the model's reply.

        Args:
            messages: The conversation.
            max_tokens: Most tokens of the reply.
            schema: What the reply must follow, where the server can hold it to that.

        Raises:
            LegError: If the model gives no answer; the router's own retries are behind it.
        """
        ...


def system_and_user(system: str, user: str) -> tuple[Message, Message]:
    """Return a conversation of two messages."""
    return {"role": "system", "content": system}, {"role": "user", "content": user}


def num_bytes(messages: Sequence[Message]) -> int:
    """Return the UTF-8 bytes of the messages' text."""
    return sum(len(message["content"].encode("utf-8", "surrogatepass")) for message in messages)
