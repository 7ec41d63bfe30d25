"""Token counts out of an answer, and the one chunk the router may withhold.

A stream reports its token counts in a last chunk only if the client set
`stream_options.include_usage`. Where it did not, the router asks in its place and withholds exactly
that chunk: an event whose `choices` is empty and whose `usage` is an object, with nothing but
comments between it and `data: [DONE]` or the end of the stream. All other bytes pass as they came.

Some servers, once asked, also put `"usage": null` into every other chunk. Those are the bytes the
server sent and they pass too; OpenAI's own API does the same.
"""

import json
import re
from dataclasses import dataclass

from router.sse import EventSplitter, event_data

MOST_TOKENS = 1_000_000_000
"""A report of more, or of less than nothing, is a mistake and counts as none."""
_TEXT = re.compile(rb'"(?:content|text)"\s*:\s*"(?!")')
"""Where a chunk carries text: quotes inside a JSON string are escaped, so no text looks like it."""
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*\{')


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the replica reported them; None where it did not, or not in earnest."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


UNKNOWN = Usage()


def read_usage(content: object) -> Usage | None:
    """Return the counts in a parsed answer or chunk, or None if it has no `usage` object."""
    usage = content.get("usage") if isinstance(content, dict) else None
    if not isinstance(usage, dict):
        return None
    return Usage(_count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


class UsageFilter:
    """Passes a stream's events on, reads their token counts, withholds the last usage chunk.

    Args:
        withhold: Whether the router asked for usage in the client's place.
    """

    def __init__(self, *, withhold: bool) -> None:
        self.usage = UNKNOWN
        """The last counts seen."""
        self.num_text_pieces = 0
        """Events with text that have passed."""
        self._withhold = withhold
        self._splitter = EventSplitter()
        self._held = b""
        self._behind = b""
        """Comments that followed the held event."""

    def feed(self, chunk: bytes) -> bytes:
        """Return the bytes to send on: the events `chunk` completes, less one that is held."""
        return b"".join([self._pass(event) for event in self._splitter.feed(chunk)])

    def finish(self) -> bytes:
        """Return the bytes left at the proper end of the stream."""
        passed = self._pass(self._splitter.take_rest())
        return passed + self._drop_held()

    def abort(self) -> bytes:
        """Return what must precede an error event where the stream broke.

        The beginning of an unfinished event is dropped: no client could read it.
        """
        self._splitter.take_rest()
        end = b"\n\n" if self._splitter.is_inside_event else b""
        return self._drop_held() + end

    def _pass(self, event: bytes) -> bytes:
        if not event:
            return b""
        self.num_text_pieces += _TEXT.search(event) is not None
        is_report = self._read(event)
        before = b""
        if self._held:
            data = event_data(event)
            if data is None:
                self._behind += event
                return b""
            before = self._drop_held() if data.strip() == b"[DONE]" else self._free_held()
        if is_report and self._withhold:
            self._held = event
            return before
        return before + event

    def _read(self, event: bytes) -> bool:
        """Take the event's counts; return whether it is a usage report and nothing else."""
        if _USAGE_OBJECT.search(event) is None:
            return False
        try:
            content = json.loads(event_data(event) or b"")
        except (ValueError, RecursionError):
            return False
        usage = read_usage(content)
        if usage is None:
            return False
        self.usage = usage
        return bool(content.get("choices") == [])

    def _drop_held(self) -> bytes:
        behind, self._held, self._behind = self._behind, b"", b""
        return behind

    def _free_held(self) -> bytes:
        held = self._held
        return held + self._drop_held()


def _count(value: object) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MOST_TOKENS else None
