"""A stand-in for vLLM's server, run as its process: `python fake_vllm.py --uds PATH`.

What it does at start is told by FAKE_VLLM: `fail` ends with an error, `hang` never gets
ready.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

NUM_PIECES = 5
adapters: dict[str, str] = {}
aborted: list[str] = []
loading: list[str] = []
_turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
"""What concerns one name is done in turn, as in vLLM."""
_unload_asked = asyncio.Event()


async def _health(_request: Request) -> Response:
    return Response(status_code=200)


async def _version(_request: Request) -> Response:
    return JSONResponse({"version": "9.9"})


async def _metrics(_request: Request) -> Response:
    return PlainTextResponse("# TYPE vllm:x gauge\nvllm:x 1\n")


async def _models(_request: Request) -> Response:
    return JSONResponse({"data": [{"id": name} for name in ["m", *sorted(adapters)]]})


async def _paths(_request: Request) -> Response:
    return JSONResponse(adapters)


async def _loading(_request: Request) -> Response:
    return JSONResponse(loading)


async def _aborted(_request: Request) -> Response:
    return JSONResponse(aborted)


async def _complete(request: Request) -> Response:
    body = await request.json()
    if body.get("crash"):
        os.write(1, b"RuntimeError: the device is lost\n")
        os._exit(3)
    if body.get("is_late"):  # as one whose body is long: its model is looked up after an unload
        await _unload_asked.wait()
    if body["model"] != "m" and body["model"] not in adapters:
        return JSONResponse({"error": {"message": "no such model"}}, status_code=404)
    if not body.get("stream"):
        about = {"request_id": request.headers.get("x-request-id"), "pid": os.getpid()}
        return JSONResponse(about | {"model": body["model"], "query": request.url.query})
    return StreamingResponse(_pieces(request, body), media_type="text/event-stream")


async def _pieces(request: Request, body: dict):
    try:
        for number in range(NUM_PIECES):
            yield f"data: {json.dumps({'n': number})}\n\n"
            if body.get("crash_at") == number:
                await asyncio.sleep(0.05)
                os._exit(3)
            await asyncio.sleep(body.get("pause", 0))
        yield "data: [DONE]\n\n"
    except asyncio.CancelledError:
        aborted.append(request.headers["x-request-id"])
        raise


async def _load(request: Request) -> Response:
    body = await request.json()
    name, folder = body["lora_name"], Path(body["lora_path"])
    if request.headers.get("content-type") != "application/json":
        return _refusal("Unsupported Media Type")
    if name == "bad":
        return _refusal("rank 512 is too large")
    manifest = (folder / "motley.json").read_text()
    if "refused-by-vllm" in manifest:
        return _refusal("does not fit")
    if "dies-at-second-load" in manifest:
        loads = folder / "loads"
        loads.write_text((loads.read_text() if loads.exists() else "") + "x")
        if loads.read_text() == "xx":
            os._exit(3)
    async with _turns[name]:
        if name in adapters:
            return _refusal(f"The lora adapter '{name}' has already been loaded.")
        loading.append(name)
        await asyncio.sleep(0.2)
        if "slow" in manifest:  # until somebody gives it up
            _unload_asked.clear()
            await _unload_asked.wait()
        loading.remove(name)
        adapters[name] = str(folder)
    return PlainTextResponse("Success")


async def _unload(request: Request) -> Response:
    name = (await request.json())["lora_name"]
    _unload_asked.set()
    async with _turns[name]:
        if adapters.pop(name, None) is None:
            return _refusal(f"The lora adapter '{name}' cannot be found.", 404)
    return PlainTextResponse("Success")


def _refusal(message: str, code: int = 400) -> Response:
    return JSONResponse({"error": {"message": message, "code": code}}, status_code=code)


def main() -> None:
    """Serve until told to stop."""
    behaviour, uds = os.environ.get("FAKE_VLLM", ""), sys.argv[sys.argv.index("--uds") + 1]
    if behaviour == "fail":
        os.write(1, b"INFO: loading\nValueError: no such model\nSee root cause above.\n")
        sys.exit(1)
    if Path(uds).exists():
        os.write(1, b"OSError: [Errno 98] Address already in use\n")
        sys.exit(1)
    if behaviour == "hang":
        asyncio.run(asyncio.sleep(3600))
    # As vLLM's own children do, it outlives the server and holds its output open.
    subprocess.Popen(["sleep", "600"])
    routes = [
        Route("/health", _health),
        Route("/version", _version),
        Route("/metrics", _metrics),
        Route("/v1/models", _models),
        Route("/v1/aborted", _aborted),
        Route("/v1/paths", _paths),
        Route("/v1/loading", _loading),
        Route("/v1/completions", _complete, methods=["POST"]),
        Route("/v1/load_lora_adapter", _load, methods=["POST"]),
        Route("/v1/unload_lora_adapter", _unload, methods=["POST"]),
    ]
    uvicorn.run(Starlette(routes=routes), uds=uds, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
