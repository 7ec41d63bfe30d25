"""`motley route` as a process of a test."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


def write_config(folder: Path, url: str, **settings: object) -> Path:
    """Write a configuration with one replica, and return its path."""
    path = folder / "router.yaml"
    lines = [f"{name}: {value}" for name, value in {"port": 0, **settings}.items()]
    lines.append(f"models: [{{name: tiny, replicas: [{{url: '{url}'}}]}}]")
    path.write_text("\n".join(lines))
    return path


def motley_route(*words: object) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "motley", "route", *map(str, words)]


@asynccontextmanager
async def running(path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    """Yield the process and its address, once it listens."""
    process = await asyncio.create_subprocess_exec(
        *motley_route(path), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(60):
            while (line := (await process.stderr.readline()).decode()) and "listening" not in line:
                pass
        found = re.search(r"listening url=(http://127\.0\.0\.1:\d+)$", line.strip())
        assert found is not None, line
        yield process, found[1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
