"""Whether what a replica began to answer is an answer at all, told before anything is passed on.

A server that is half broken may answer 200 with what is none: a body cut short, another protocol's
bytes, an error in the place of the first event. Nothing has gone to the client yet, so another replica
can still answer. What a replica says with another status is its own; it is not judged here.
"""

import json

from router.errors import ReplicaGarbageError, StreamBrokenError
from router.sse import BLANK_LINE, event_data
from router.upstream import UpstreamReply

MOST_FIRST_EVENT_BYTES = 2**16
"""So much of a stream is looked at; a first event that is longer is passed on unseen."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIELD_NAMES = (b"data:", b"event:", b"id:", b"retry:", b":")


async def check_answer(reply: UpstreamReply) -> None:
    """Refuse an answer of status 200 that is none; reads on until a stream's first event is whole.

    Raises:
        ReplicaGarbageError: If it is none.
    """
    if reply.status != 200:
        return
    if not reply.is_stream:
        _check_whole(reply)
        return
    while (end := BLANK_LINE.search(reply.body)) is None:
        if not may_be_events(reply.body):
            raise ReplicaGarbageError(reply.url, "began a stream with what is no event")
        if len(reply.body) > MOST_FIRST_EVENT_BYTES:
            return
        try:
            more = await reply.read_more()
        except StreamBrokenError as error:
            raise ReplicaGarbageError(
                reply.url, f"broke in its first event: {error.problem}"
            ) from None
        if not more:
            raise ReplicaGarbageError(reply.url, "ended a stream within its first event")
        reply.body += more
    _check_event(reply.url, reply.body[: end.end()])


def may_be_events(beginning: bytes) -> bool:
    """Return whether a stream of events may begin with these bytes."""
    if _BYTE_ORDER_MARK.startswith(beginning):
        return True
    text = beginning.removeprefix(_BYTE_ORDER_MARK).lstrip()
    return any(text.startswith(name[: len(text)]) for name in _FIELD_NAMES)


def _check_whole(reply: UpstreamReply) -> None:
    try:
        content = json.loads(reply.body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ReplicaGarbageError(reply.url, "answered 200 with no JSON object")
    if not isinstance(content.get("choices"), list):
        raise ReplicaGarbageError(reply.url, "answered 200 with no list of choices")
    reply.content = content


def _check_event(url: str, event: bytes) -> None:
    if not may_be_events(event):
        raise ReplicaGarbageError(url, "began a stream with what is no event")
    data = event_data(event)
    if data is None or data.strip() == b"[DONE]":
        return
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        raise ReplicaGarbageError(url, "began a stream with an event of no JSON") from None
    error = content.get("error") if isinstance(content, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and code >= 500:
        raise ReplicaGarbageError(url, f"began a stream with an error of code {code}")
