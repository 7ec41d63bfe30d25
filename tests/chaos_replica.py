"""A replica that breaks in every way it is told to: `python chaos_replica.py PORT`, raw HTTP/1.1.

`POST /chaos` with the name of a manner changes how completions are answered; checks always pass, so
that only requests find out. What it says while it is broken holds the request's prompt and keys, as
careless servers do. Answers are a function of the prompt, so that every byte can be judged.
"""

import asyncio
import hashlib
import json
import random
import socket
import struct
import sys

MODEL = "chaos"
MANNERS = (
    "slow",
    "reset",
    "bytes",
    "status_line",
    "no_json",
    "other_json",
    "html",
    "cut",
    "half_close",
    "half_close_midway",
    "busy",
    "error_500",
    "error_503",
)
SLOW_SECONDS = 1.5
CHUNK_SECONDS = 0.005
EVENTS = "text/event-stream"


def answer_words(prompt: str) -> list[str]:
    """Return the only right answer to a prompt."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return [digest[start : start + 8] + " " for start in range(0, 40, 8)]


class Replica:
    """One server; all connections share its manner."""

    def __init__(self) -> None:
        self._manner = "well"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the router left: that is its right
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; return whether the connection is still of use."""
        head = await reader.readuntil(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").rstrip().split("\r\n")
        headers = dict(each.lower().split(": ", 1) for each in lines)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        path = line.split(" ")[1]
        if path == "/chaos":
            self._manner = body.decode()
            writer.write(whole(200, b"{}"))
            return True
        if path in ("/health", "/v1/models"):
            data = [{"id": MODEL, "object": "model"}]
            writer.write(whole(200, json.dumps({"object": "list", "data": data}).encode()))
            return True
        secret = body + headers.get("authorization", "").encode()
        return await self._complete(json.loads(body), secret, reader, writer)

    async def _complete(
        self,
        fields: dict[str, object],
        secret: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        manner = self._manner
        prompt = str(fields["prompt"])
        events = answer_events(prompt) if fields.get("stream") else None
        if manner in ("well", "slow"):
            await asyncio.sleep(SLOW_SECONDS if manner == "slow" else random.uniform(0, 0.03))
            await send_answer(prompt, events, writer)
            return True
        if manner in ("cut", "half_close_midway"):
            await send_half(prompt, events, writer, has_length=manner == "cut")
        else:
            writer.write(nonsense(manner, secret))
        await writer.drain()
        if manner.startswith("half_close"):
            writer.write_eof()
            await reader.read()  # still there, until the router goes
        elif manner == "reset":
            connection = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return manner in ("no_json", "other_json", "html", "busy", "error_500", "error_503")


def nonsense(manner: str, secret: bytes) -> bytes:
    """Return what is sent in place of an answer; most of it repeats the request."""
    match manner:
        case "bytes":
            return random.randbytes(200) + secret
        case "status_line":
            return b"HTTP/1.1 " + secret + b"\r\n\r\n"
        case "no_json":
            return whole(200, secret[: len(secret) // 2])
        case "other_json":
            return whole(200, json.dumps({"echo": secret.decode()}).encode())
        case "html":
            return whole(200, b"<html>" + secret + b"</html>", kind="text/html")
        case "busy":
            return whole(429, secret, more="retry-after: 1\r\n")
        case "error_500" | "error_503":
            error = {"error": {"message": secret.decode(), "type": "ServerError"}}
            return whole(int(manner[-3:]), json.dumps(error).encode())
    return b""


async def send_answer(
    prompt: str, events: list[bytes] | None, writer: asyncio.StreamWriter
) -> None:
    """Send the right answer."""
    if events is None:
        writer.write(whole(200, whole_answer(prompt)))
        return
    writer.write(
        f"HTTP/1.1 200 OK\r\ncontent-type: {EVENTS}\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    )
    for event in events:
        writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        await asyncio.sleep(CHUNK_SECONDS)
    writer.write(b"0\r\n\r\n")


async def send_half(
    prompt: str, events: list[bytes] | None, writer: asyncio.StreamWriter, *, has_length: bool
) -> None:
    """Send the head and half of the right answer; without a length only the end would tell."""
    body = whole_answer(prompt) if events is None else b"".join(events)
    half = body[: len(body) // 2] if events is None else b"".join(events[: len(events) // 2])
    kind = "application/json" if events is None else EVENTS
    length = f"content-length: {len(body)}\r\n" if has_length else ""
    writer.write(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n{length}\r\n".encode() + half)
    await asyncio.sleep(0.02)  # for the first piece to be passed on


def whole_answer(prompt: str) -> bytes:
    """Return a completion that is not streamed."""
    choice = {"index": 0, "text": "".join(answer_words(prompt)), "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    return json.dumps(
        {"object": "text_completion", "model": MODEL, "choices": [choice], "usage": usage}
    ).encode()


def answer_events(prompt: str) -> list[bytes]:
    """Return the same as events, the last of them `[DONE]`."""
    chunks = [
        {"object": "text_completion", "model": MODEL, "choices": [{"index": 0, "text": word}]}
        for word in answer_words(prompt)
    ]
    return [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + [b"data: [DONE]\n\n"]


def whole(status: int, body: bytes, *, kind: str = "application/json", more: str = "") -> bytes:
    """Return an answer with its length."""
    head = (
        f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{more}content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main(port: int) -> None:
    """Listen until killed, and tell the port."""
    server = await asyncio.start_server(Replica().serve, "127.0.0.1", port, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
