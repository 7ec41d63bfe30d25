"""What each contestant's process does: answer requests, one JSON line each, with its own clocks.

Standard library only: contestants run in environments of their own. Options come as the first
argument, requests on standard input, answers on what was standard output; what libraries print goes
to standard error.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Call(NamedTuple):
    """Texts to generate at once."""

    prompts: list[list[int]]
    seeds: list[int]
    new_tokens: int
    temperature: float
    mode: str


class Texts(NamedTuple):
    """The generated token ids of each prompt, and totals over the rounds of drafting."""

    tokens: list[list[int]]
    drafts: int = 0
    drafted: int = 0
    accepted_per_position: tuple[int, ...] = ()
    draft_seconds: float = 0.0


Generate = Callable[[Call], Texts]


def serve(start: Callable[[dict[str, Any]], Generate]) -> None:
    """Start with the options, then answer until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    try:
        generate = start(json.loads(sys.argv[1]))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=answers)
        raise
    print(json.dumps({"ready": True}), file=answers)
    for line in sys.stdin:
        try:
            answer = _answer(generate, json.loads(line))
        except Exception as error:  # noqa: BLE001 - its row says why; other modes may still run
            traceback.print_exc()
            answer = {"failed": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers)


def _answer(generate: Generate, request: dict[str, Any]) -> dict[str, Any]:
    """Time the prompts one by one, or all at once where streams are concurrent."""
    prompts, seeds = request["prompts"], request["seeds"]
    rest = (request["new_tokens"], request["temperature"], request["mode"])
    if request["concurrent"]:
        calls = [Call(prompts, seeds, *rest)]
    else:
        calls = [Call([p], [s], *rest) for p, s in zip(prompts, seeds, strict=True)]
    wall, processor, done = [], [], []
    for call in calls:
        before = time.perf_counter(), time.process_time()
        done.append(generate(call))
        wall.append(time.perf_counter() - before[0])
        processor.append(time.process_time() - before[1])
    # Not getrusage: its peak includes the parent's, from before this program took over.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        "wall_seconds": wall,
        "processor_seconds": processor,
        "tokens": [tokens for texts in done for tokens in texts.tokens],
        "rounds": [
            [t.drafts, t.drafted, list(t.accepted_per_position), t.draft_seconds] for t in done
        ],
        "peak_bytes": int(status["VmHWM"].split()[0]) * 1024,
        "own_bytes": int(status["RssAnon"].split()[0]) * 1024,
    }
