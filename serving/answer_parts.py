"""What an answer is made of before it has any API's shape."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from serving.token_texts import ScoredToken
from serving.tool_parsers import CallDelta


@dataclass(slots=True)
class Piece:
    """What is new of one choice."""

    index: int
    """Of the choice."""
    text: str = ""
    calls: list[CallDelta] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    """With log-probabilities, where they are asked for."""
    num_tokens: int = 0
    """Tokens generated."""
    finish_reason: str | None = None
    """Set on a choice's last piece."""


@dataclass(slots=True)
class Call:
    """A whole tool call."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Choice:
    """A whole choice."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[ScoredToken] = field(default_factory=list)
    finish_reason: str = "stop"

    def take(self, piece: Piece) -> None:
        """Add what is new."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish_reason = piece.finish_reason or self.finish_reason
        for delta in piece.calls:
            if delta.name is not None:
                self.calls.append(Call(delta.id or "", delta.name))
            self.calls[delta.index].arguments += delta.arguments


@dataclass(slots=True)
class Usage:
    """Tokens of a request: each prompt once, every choice."""

    prompt_tokens: int
    completion_tokens: int = 0

    def openai(self) -> dict[str, int]:
        """Return OpenAI's usage object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def gathered(pieces: Iterable[Piece], num_choices: int) -> list[Choice]:
    """Return the whole choices of all their pieces."""
    choices = [Choice() for _ in range(num_choices)]
    for piece in pieces:
        choices[piece.index].take(piece)
    return choices
