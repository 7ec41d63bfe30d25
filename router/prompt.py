"""A request's input as text, the way a chat template would put it in a row.

Two requests share a prefix here exactly where the replica's prompts would share one: tools first, then
each message's role, content and tool calls, in order. So the text of one turn of a conversation is the
beginning of the text of its next turn. Control characters stand between the pieces. Images, sounds and
files stand as a digest of their length and both ends; token ids as eight characters each. Only the first
`MOST_CHARACTERS` are looked at.
"""

import json
from array import array
from collections.abc import Iterator, Mapping
from hashlib import blake2b

from router.prefix_blocks import MOST_CHARACTERS, Blocks, blocks_of
from router.prompt_size import PromptSize, prompt_size

_MESSAGE, _FIELD = "\x1e", "\x1f"
_LONG_CHARACTERS = 256
"""A longer value of a part that is no text goes in as a digest."""
_END_CHARACTERS = 16_384
"""What a digest reads of either end."""


class Prompt:
    """The input of one body; each fact is worked out when it is first asked for, and once."""

    __slots__ = ("_blocks", "_fields", "_size", "_text")

    def __init__(self, fields: Mapping[str, object]) -> None:
        self._fields = fields
        self._size: PromptSize | None = None
        self._text: str | None = None
        self._blocks: Blocks | None = None

    @property
    def size(self) -> PromptSize:
        """What can be counted of it."""
        if self._size is None:
            self._size = prompt_size(self._fields)
        return self._size

    @property
    def text(self) -> str:
        """It as text, at most `MOST_CHARACTERS`."""
        if self._text is None:
            self._text = rendered(self._fields)
        return self._text

    @property
    def blocks(self) -> Blocks:
        """The text cut into blocks, as prefixes are compared."""
        if self._blocks is None:
            self._blocks = blocks_of(self.text)
        return self._blocks


def rendered(fields: Mapping[str, object]) -> str:
    """Return a body's input as text, cut to `MOST_CHARACTERS`.

    Fields of another shape than OpenAI's count as nothing: the replica will refuse them.
    """
    prompt = fields.get("prompt")
    pieces = _chat_pieces(fields) if prompt is None else _prompt_pieces(prompt)
    kept: list[str] = []
    room = MOST_CHARACTERS
    for piece in pieces:
        kept.append(piece[:room])
        room -= len(piece)
        if room <= 0:
            break
    return "".join(kept)


def _prompt_pieces(prompt: object) -> Iterator[str]:
    """Yield a completion's prompt; of several prompts, one behind the other."""
    if isinstance(prompt, str):
        yield prompt
    elif isinstance(prompt, list) and prompt:
        if isinstance(prompt[0], int):
            yield _ids_text(prompt)
            return
        for each in prompt:
            yield each if isinstance(each, str) else _ids_text(each)
            yield _MESSAGE


def _chat_pieces(fields: Mapping[str, object]) -> Iterator[str]:
    if fields.get("tools"):
        yield json.dumps(fields["tools"])
    messages = fields.get("messages")
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict):
            continue
        yield _MESSAGE
        yield str(message.get("role"))
        yield _FIELD
        content = message.get("content")
        if isinstance(content, str):
            yield content
        elif isinstance(content, list):
            for part in content:
                yield from _part_pieces(part)
        if message.get("tool_calls"):
            yield json.dumps(message["tool_calls"])


def _part_pieces(part: object) -> Iterator[str]:
    """Yield a part of a message: its text, or the short form of an image, sound or file."""
    if not isinstance(part, dict):
        return
    text = part.get("text")
    if isinstance(text, str):
        yield text
        return
    for key, value in part.items():
        yield _FIELD
        yield key
        for each in value.values() if isinstance(value, dict) else (value,):
            yield _short(each)


def _short(value: object) -> str:
    """Return `value` as text, or the digest of a long one's length and both ends."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= _LONG_CHARACTERS:
        return text
    ends = text[:_END_CHARACTERS] + text[-_END_CHARACTERS:]
    digest = blake2b(ends.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(str(len(text)).encode())
    return digest.hexdigest()


def _ids_text(ids: object) -> str:
    """Return token ids as characters, eight a token; nothing where they are no ids."""
    if not isinstance(ids, list):
        return ""
    try:
        return array("q", ids[: MOST_CHARACTERS // 8]).tobytes().decode("latin-1")
    except (TypeError, OverflowError):
        return ""
