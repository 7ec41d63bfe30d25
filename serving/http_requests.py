"""What every handler does with a request: reads its body, and works only while a client waits."""

import asyncio
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from planner.documents import describe
from serving.errors import RequestError, TooLargeError

MAX_BODY_BYTES = 8 << 20
"""Largest request body taken."""

CLIENT_LEFT = 499
"""Status, for the log only, of an answer nobody waits for any more."""

Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")


async def read_bytes(request: Request) -> bytes:
    """Return the body as it came.

    Raises:
        TooLargeError: Above the size limit.
    """
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise TooLargeError(f"the body is above {MAX_BODY_BYTES} bytes; send a smaller one")
        chunks.append(chunk)
    return b"".join(chunks)


async def read_body(request: Request, model: type[Body]) -> Body:
    """Parse a JSON body.

    Raises:
        TooLargeError: Above the size limit.
        RequestError: If it is no JSON object or breaks the schema.
    """
    raw = await read_bytes(request)
    try:
        content = json.loads(raw.decode("utf-8-sig"))  # bytes may also be half-read UTF-16
        if b"\\ud" in raw or b"\\uD" in raw:
            json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        reason = str(error)[:120]
        raise RequestError(f"the body is not valid JSON ({reason}); correct it") from None
    if not isinstance(content, dict):
        raise RequestError(f"the body is a JSON {type(content).__name__}; send an object")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        param = str(error.errors()[0]["loc"][0]) if error.errors()[0]["loc"] else None
        raise RequestError(describe(error), param=param) from None


async def while_wanted(request: Request, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return the result of `work`, or abort it and return None when the client goes away first."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait({working, leaving})


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
