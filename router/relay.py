"""Passing one replica's answer, or one error, to the client."""

import re
import time
from collections.abc import Callable

from starlette.types import Send

from router.attempt import BUSY_STATUS
from router.error_answers import error_body
from router.errors import RouterError, StreamBrokenError
from router.exchange import RawHeaders, headers_for_client, send_error, send_whole
from router.sse import data_event
from router.traffic_log import RequestRecord
from router.upstream import UpstreamReply
from router.usage import UNKNOWN, UsageFilter, read_usage

END = re.compile(rb'\[DONE\]|"finish_reason"\s*:\s*"')
"""What a whole stream has near its end, however its connection frames it; a cut one has not."""
END_BYTES = 4096
"""How near: a report of usage may follow the reason."""


class Relay:
    """The client's side of one request; fills in the request's record as bytes pass."""

    def __init__(
        self, send: Send, record: RequestRecord, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._send = send
        self._record = record
        self._monotonic = monotonic
        self.headers: RawHeaders = []
        """The router's own headers of the answer, whatever the answer is."""
        self._filter: UsageFilter | None = None
        """Set once a stream has begun: from then on errors are events."""

    async def pass_on(self, reply: UpstreamReply, *, withhold_usage: bool) -> None:
        """Send the replica's answer on.

        Raises:
            StreamBrokenError: If it is a stream and breaks.
        """
        self._record.status = reply.status
        if reply.is_stream:
            await self._pass_stream(reply, UsageFilter(withhold=withhold_usage))
        else:
            await self._pass_whole(reply)

    async def fail(self, error: RouterError) -> None:
        """Answer with `error`: OpenAI's body, or an event at the end of a stream that has begun."""
        if self._filter is None:
            await send_error(self._send, error, self.headers)
            return
        last = self._filter.abort() + data_event(error_body(error))
        await self._send({"type": "http.response.body", "body": last})

    def _headers(self, reply: UpstreamReply) -> RawHeaders:
        """Return the replica's headers, with ours in place of those of the same names."""
        theirs = headers_for_client(reply.headers)
        if not self.headers:
            return theirs
        ours = {name for name, _ in self.headers}
        return [each for each in theirs if each[0] not in ours] + self.headers

    async def _pass_whole(self, reply: UpstreamReply) -> None:
        self._record.usage = read_usage(reply.content) or UNKNOWN
        headers = self._headers(reply)
        if reply.status == BUSY_STATUS and all(name != b"retry-after" for name, _ in headers):
            headers.append((b"retry-after", b"1"))
        await send_whole(self._send, reply.status, headers, reply.body)

    async def _pass_stream(self, reply: UpstreamReply, usage_filter: UsageFilter) -> None:
        record = self._record
        record.is_stream = True
        record.first_byte_at = self._monotonic()
        headers = self._headers(reply)
        await self._send(
            {"type": "http.response.start", "status": reply.status, "headers": headers}
        )
        self._filter = usage_filter
        chunk, tail = reply.body, b""
        while chunk:
            record.last_byte_at = self._monotonic()
            piece = usage_filter.feed(chunk)
            record.usage = usage_filter.usage
            record.num_text_pieces = usage_filter.num_text_pieces
            if piece:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            tail = (tail + chunk)[-END_BYTES:]
            chunk = await reply.read_more()
        if END.search(tail) is None:
            raise StreamBrokenError(
                reply.url, "it ended without a finish_reason and without [DONE]"
            )
        last = usage_filter.finish()
        record.usage = usage_filter.usage
        record.num_text_pieces = usage_filter.num_text_pieces
        await self._send({"type": "http.response.body", "body": last})
