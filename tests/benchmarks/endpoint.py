"""What the HTTP process costs: processor time a request and a streamed chunk, over real sockets.

`instant_endpoint.py` is the server. 500 streams of 200 tokens run at once and must come complete
and in order: each stream's text equals the whole answer's.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import aiohttp
from benchmarks.instant_endpoint import KEY, MODEL
from rich.console import Console
from rich.table import Table

from planner.demo.processes import Server

FAMILY = Path(__file__).parents[2] / "serving" / "models" / "tiny"
NUM_STREAMS = int(os.environ.get("STREAMS", "500"))
STREAM_TOKENS = 200
NUM_REQUESTS = 400
NUM_CLIENTS = 16
REPETITIONS = int(os.environ.get("REPETITIONS", "5"))
MOST_REQUEST_SECONDS = 2e-3
MOST_CHUNK_SECONDS = 100e-6


def run() -> dict[str, object]:
    """Measure, print, and return the figures."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.instant_endpoint", str(FAMILY / "target")]
        tests = Path(__file__).parents[1]
        os.environ["PYTHONPATH"] = f"{tests.parent}:{tests}"
        log = Path(folder) / "server.log"
        with Server(command, log=log) as server:
            url = server.wait_for_url(120)
            rounds = [asyncio.run(_measure(url, server.pid)) for _ in range(REPETITIONS)]
            num_answers = asyncio.run(_check_nothing_is_off(url))
            num_lines = log.read_text().count(" request ended ")
            assert num_lines == num_answers, f"{num_lines} of {num_answers} answers were logged"
    names = ("request_seconds", "stream_seconds", "chunk_seconds")
    figures: dict[str, object] = {
        name: statistics.median(found[name] for found in rounds) for name in names
    }
    figures |= {"rounds": rounds, "num_streams": NUM_STREAMS, "stream_tokens": STREAM_TOKENS}
    _show(figures)
    return figures


async def _measure(url: str, pid: int) -> dict[str, float]:
    headers = {"authorization": f"Bearer {KEY}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, headers=headers, connector=connector) as session:
        expected = await _whole(session, STREAM_TOKENS)
        before = _processor_seconds(pid)
        await _requests(session)
        after_requests = _processor_seconds(pid)
        answers = await asyncio.gather(*(_stream(session) for _ in range(NUM_STREAMS)))
        after_streams = _processor_seconds(pid)
    for text, _ in answers:
        assert text == expected, "a stream came incomplete or out of order"
    num_chunks = sum(count for _, count in answers)
    request_seconds = (after_requests - before) / NUM_REQUESTS
    streaming_seconds = after_streams - after_requests
    return {
        "request_seconds": request_seconds,
        "stream_seconds": streaming_seconds / NUM_STREAMS,
        # Without what a request costs before its first chunk.
        "chunk_seconds": (streaming_seconds - request_seconds * NUM_STREAMS) / num_chunks,
        "num_chunks": num_chunks,
    }


async def _check_nothing_is_off(url: str) -> int:
    """Return the number of answers so far; keys, validation, template and metrics had their part."""
    num_answers = REPETITIONS * (1 + NUM_REQUESTS + NUM_STREAMS) + 1
    async with aiohttp.ClientSession(url) as session:
        async with session.post("/v1/chat/completions", json=_body(1)) as answer:
            assert answer.status == 401, "no key was asked for"
        headers = {"authorization": f"Bearer {KEY}"}
        async with session.post("/v1/chat/completions", json={}, headers=headers) as answer:
            assert answer.status == 400, "nothing was validated"
        asked = _body(1)
        async with session.post("/tokenize", json=asked, headers=headers) as answer:
            num_prompt_tokens = (await answer.json())["count"]
        async with session.post("/v1/chat/completions", json=asked, headers=headers) as answer:
            usage = (await answer.json())["usage"]
            assert usage["prompt_tokens"] == num_prompt_tokens, "prompts were not tokenised"
        async with session.get("/metrics") as answer:
            count = f'e2e_request_latency_seconds_count{{model_name="{MODEL}"}} {num_answers}.0'
            assert count in await answer.text(), "answers were not timed"
    return num_answers


async def _requests(session: aiohttp.ClientSession) -> None:
    numbers = iter(range(NUM_REQUESTS))

    async def client() -> None:
        for _ in numbers:
            await _whole(session, 1)

    await asyncio.gather(*(client() for _ in range(NUM_CLIENTS)))


def _body(max_tokens: int, **fields: object) -> dict[str, object]:
    messages = [{"role": "user", "content": "Return the sum of a list of numbers, please. " * 4}]
    return {
        "model": MODEL,
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        **fields,
    }


async def _whole(session: aiohttp.ClientSession, max_tokens: int) -> str:
    async with session.post("/v1/chat/completions", json=_body(max_tokens)) as answer:
        assert answer.status == 200, await answer.text()
        content = await answer.json()
        return str(content["choices"][0]["message"]["content"])


async def _stream(session: aiohttp.ClientSession) -> tuple[str, int]:
    """Return a stream's text and how many chunks carried it."""
    pieces = []
    body = _body(STREAM_TOKENS, stream=True)
    async with session.post("/v1/chat/completions", json=body) as answer:
        lines = [line async for line in answer.content if line != b"\n"]
    assert lines[-1] == b"data: [DONE]\n", lines[-1]
    for line in lines[:-1]:
        delta = json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"]
        pieces.append(delta.get("content") or "")
    return "".join(pieces), sum(map(bool, pieces))


def _processor_seconds(pid: int) -> float:
    """Return the user and system time of a process, without its children's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _show(figures: dict[str, object]) -> None:
    table = Table(title=f"endpoint: {NUM_STREAMS} streams of {STREAM_TOKENS} tokens at once")
    for name in ("processor time", "median", "bar", "met"):
        table.add_column(name)
    rows = (
        ("a request", float(str(figures["request_seconds"])), MOST_REQUEST_SECONDS),
        ("a streamed chunk", float(str(figures["chunk_seconds"])), MOST_CHUNK_SECONDS),
    )
    for name, seconds, bar in rows:
        met = "yes" if seconds <= bar else "no"
        table.add_row(name, f"{seconds * 1e6:.0f} us", f"{bar * 1e6:.0f} us", met)
    Console().print(table)
