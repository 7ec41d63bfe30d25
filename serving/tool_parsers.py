"""Tool calls in the text of a model, found as it streams: one syntax a family.

Sources: the chat templates of Hermes 2 Pro and Qwen 2.5 (`<tool_call>`), of Llama 3.1
(`{"name", "parameters"}`), and of Mistral 7B v0.3 and Mistral Small 3.1 (`[TOOL_CALLS]`).
"""

import json
import re
import secrets
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_SPACE = " \n\r\t"
_ALPHANUMERIC = string.ascii_letters + string.digits
_ARGUMENT_KEYS = ("arguments", "parameters")
_BARE_MARKERS = ("[ARGS]", "[CALL_ID]")
_BARE_START = re.compile(r"[\w.-]{1,64}[\w\[\]]{0,64}\s{0,8}")
_BARE_CALL = re.compile(r"([\w.-]{1,64}?)(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?\s*\{")


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of one call: its beginning, which has the name, or more of its arguments."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ToolSyntax:
    """How a family writes its calls."""

    opening: str
    """What calls stand behind."""
    closing: str = ""
    """What ends them; empty where nothing does."""
    separators: str = _SPACE
    """Characters between calls that mean nothing."""
    bare_start: str = ""
    """A text that begins with this is calls without `opening`; empty where none is."""
    has_bare_names: bool = False
    """Whether a call may be a name and then its arguments, in no object."""

    @property
    def markers(self) -> tuple[str, ...]:
        """What the syntax is made of that may be special tokens."""
        return (self.opening, self.closing, *_BARE_MARKERS * self.has_bare_names)


HERMES = ToolSyntax("<tool_call>", closing="</tool_call>")
LLAMA3 = ToolSyntax("<|python_tag|>", separators=_SPACE + ";", bare_start="{")
MISTRAL = ToolSyntax("[TOOL_CALLS]", separators=_SPACE + "[],", has_bare_names=True)
REQUIRED = ToolSyntax("", separators=_SPACE + "[],", bare_start="[")
"""What `tools.calls_constraint` makes."""


def find_syntax(chat_template: str) -> ToolSyntax:
    """Return the syntax a chat template teaches; Hermes's where it teaches none."""
    for syntax in (MISTRAL, HERMES):
        if syntax.opening in chat_template:
            return syntax
    is_llama = LLAMA3.opening in chat_template or '"parameters": dictionary' in chat_template
    return LLAMA3 if is_llama else HERMES


class ToolCallParser:
    """Splits a text, as it streams, into content and calls.

    What cannot be a call is content; white space before a call is dropped. The result does not
    depend on how the text is split.
    """

    def __init__(self, syntax: ToolSyntax, *, most_calls: int | None = None) -> None:
        """Read `syntax`; calls beyond `most_calls` are dropped, None keeps all."""
        self._syntax = syntax
        self._most_calls = most_calls
        self._state: Callable[[str], None] = self._start
        self._held = ""
        """Characters that may turn out to be content."""
        self._scanner = CallScanner()
        self._out: list[str | CallDelta] = []
        self.num_calls = 0

    def push(self, text: str) -> list[str | CallDelta]:
        """Take more text and return the content and the parts of calls that are now certain."""
        for char in text:
            self._held += char
            self._state(char)
        return self._taken()

    def finish(self) -> list[str | CallDelta]:
        """Return what was held back, once no more text comes."""
        is_between = self._state == self._between or not self._held.strip(_SPACE)
        is_calls_only = not self._syntax.opening
        if not (is_calls_only or (self.num_calls and is_between)):
            self._say(self._held)
        self._held = ""
        return self._taken()

    def _taken(self) -> list[str | CallDelta]:
        out, self._out = list(_joined(self._out)), []
        return out

    def _say(self, text: str) -> None:
        if text:
            self._out.append(text)

    def _start(self, char: str) -> None:
        """Before the first character that is no white space."""
        if char in _SPACE:
            return
        is_bare = char == self._syntax.bare_start
        self._state = self._between if is_bare else self._content
        self._state(char)

    def _content(self, _char: str) -> None:
        """Outside calls: hold what may begin the opening, and the white space before it."""
        opening = self._syntax.opening
        if opening and self._held.endswith(opening):
            self._say(self._held.removesuffix(opening).rstrip(_SPACE))
            self._held, self._state = opening, self._between
            return
        before = self._held[: len(self._held) - _overlap(self._held, opening)].rstrip(_SPACE)
        self._say(before)
        self._held = self._held[len(before) :]

    def _between(self, _char: str) -> None:
        """Among calls: a call, another opening, the end, or no call after all."""
        syntax = self._syntax
        open_ended = self._held.removeprefix(syntax.opening).lstrip(syntax.separators)
        rest = open_ended.rstrip(syntax.separators)
        if rest == "{":
            self._begin(CallScanner())
        elif syntax.opening and rest == syntax.opening:
            self._held = syntax.opening
        elif syntax.closing and rest == syntax.closing:
            self._held, self._state = "", self._content
        elif syntax.has_bare_names and open_ended[:1].isidentifier():
            self._bare_name(open_ended)
        elif not (syntax.opening.startswith(rest) or syntax.closing.startswith(rest)):
            self._reject()

    def _bare_name(self, rest: str) -> None:
        """In a name that stands before its arguments."""
        if self._held.endswith(self._syntax.opening):
            self._held = self._syntax.opening
        elif found := _BARE_CALL.fullmatch(rest):
            self._begin(CallScanner(found[1]))
        elif not _BARE_START.fullmatch(rest):
            self._reject()

    def _begin(self, scanner: "CallScanner") -> None:
        self._scanner, self._state = scanner, self._call
        if scanner.name is not None:
            self._name(scanner.name)
        self._call("{")

    def _call(self, char: str) -> None:
        scanner = self._scanner
        was_named = scanner.name is not None
        try:
            arguments = scanner.push(char)
        except (ValueError, RecursionError):
            return self._reject()
        if scanner.name is not None:
            if not was_named:
                self._name(scanner.name)
            self._held = ""
            if arguments and self._is_kept:
                self._out.append(CallDelta(self.num_calls, arguments=arguments))
        if scanner.is_done:
            self.num_calls += self._is_kept
            self._state = self._between
        return None

    @property
    def _is_kept(self) -> bool:
        return self._most_calls is None or self.num_calls < self._most_calls

    def _name(self, name: str) -> None:
        if self._is_kept:
            self._out.append(CallDelta(self.num_calls, _call_id(self._syntax), name))

    def _reject(self) -> None:
        """Take what is held for content."""
        self._say(self._held)
        self._held, self._state = "", self._content


class CallScanner:
    """Reads one call's JSON object character by character."""

    def __init__(self, name: str | None = None) -> None:
        """Read the arguments of `name`; None reads an object of a name and arguments."""
        self.name = name
        """Known from some character on: then it is a call."""
        self.is_done = False
        self._is_streaming = self._has_arguments = name is not None
        self._outer_depth = 0 if self._is_streaming else 1
        self._depth = 0
        self._in_string = self._is_escaped = False
        self._key: str | None = None
        self._value = ""
        self._waiting = ""
        """Arguments before the name is known."""

    def push(self, char: str) -> str:
        """Take a character and return the arguments that are certain.

        Raises:
            ValueError: If this is no call.
        """
        is_outside = self._follow(char)
        self.is_done = self._depth == 0
        if self._is_streaming:
            self._is_streaming = self._depth > self._outer_depth
            return char
        if is_outside and self._begins_arguments(char):
            self._is_streaming = self._has_arguments = True
            return char
        if is_outside and self._depth == 1 and char == ":" and self._key is None:
            self._key, self._value = str(json.loads(self._value)), ""
        elif (is_outside and self._depth == 1 and char == ",") or self.is_done:
            self._end_value()
        elif not (is_outside and self._depth == 1 and char == "{"):
            self._value += char
        if self.name is None:
            return ""
        certain, self._waiting = self._waiting, ""
        return certain

    def _begins_arguments(self, char: str) -> bool:
        """Whether this bracket begins arguments that may stream, the name being known."""
        is_first = self._key in _ARGUMENT_KEYS and not self._value.strip(_SPACE)
        is_new = self.name is not None and not self._has_arguments
        return is_new and is_first and char in "{["

    def _follow(self, char: str) -> bool:
        """Keep the depth; whether the character stands outside strings."""
        if self._in_string:
            is_end = char == '"' and not self._is_escaped
            self._is_escaped = char == "\\" and not self._is_escaped
            self._in_string = not is_end
            return False
        self._in_string = char == '"'
        self._depth += (char in "{[") - (char in "}]")
        return True

    def _end_value(self) -> None:
        key, value = self._key, self._value.strip(_SPACE)
        self._key, self._value = None, ""
        if key == "name" and self.name is None:
            name = json.loads(value)
            if not isinstance(name, str) or not name:
                raise ValueError("a call's name is a word")
            self.name = name
        elif key in _ARGUMENT_KEYS and not self._has_arguments:
            self._has_arguments = True
            # Some models write the arguments as a string that holds JSON.
            self._waiting = str(json.loads(value)) if value.startswith('"') else value
        if self.is_done and self.name is None:
            raise ValueError("a call has a name")
        if self.is_done and not self._has_arguments:
            self._waiting = "{}"


def _joined(parts: list[str | CallDelta]) -> Iterator[str | CallDelta]:
    """Join neighbours of the same kind."""
    kept: str | CallDelta | None = None
    for part in parts:
        if isinstance(kept, str) and isinstance(part, str):
            kept += part
        elif isinstance(kept, CallDelta) and isinstance(part, CallDelta) and part.id is None:
            kept = CallDelta(kept.index, kept.id, kept.name, kept.arguments + part.arguments)
        else:
            if kept is not None:
                yield kept
            kept = part
    if kept is not None:
        yield kept


def _overlap(text: str, marker: str) -> int:
    """Return the length of the longest end of `text` that begins `marker`."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if marker.startswith(text[-n:])), 0)


def _call_id(syntax: ToolSyntax) -> str:
    """Return a new id; Mistral's templates take nine characters and no other number."""
    if syntax is MISTRAL:
        return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(9))
    return f"call_{secrets.token_hex(12)}"
