"""Contestants as processes: started with explicit threads, asked for texts, ended at the close."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.rival_environments import RivalError

TESTS = Path(__file__).parents[1]
LOGS = Path("runs") / "benchmarks" / "logs"


@dataclass(frozen=True, slots=True)
class Measured:
    """One pass over prompts: seconds by prompt, or of all where they were concurrent."""

    seconds: list[float]
    tokens: list[list[int]]
    drafts: int
    drafted: int
    accepted_per_position: list[int]
    peak_bytes: int
    own_bytes: int
    draft_seconds: float = 0.0
    """Of the wall clock; 0 where the contestant does not say."""


@dataclass(slots=True)
class Contestant:
    """A process that generates; started at its first use, and its failure remembered."""

    name: str
    worker: str
    """Module below `benchmarks`."""
    options: dict[str, Any]
    python: Path = Path(sys.executable)
    is_ours: bool = False
    """Whether it may import the repository."""
    failure: str | None = None
    _process: "subprocess.Popen[str] | None" = field(default=None, repr=False)

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def close(self) -> None:
        """End the process: its standard input ends, and it with it."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.communicate()
            self._process = None

    def measure(
        self,
        prompts: list[list[int]],
        *,
        mode: str,
        new_tokens: int,
        temperature: float = 0.0,
        is_concurrent: bool = False,
        clock: str = "wall",
    ) -> Measured:
        """Generate from every prompt, one by one or all at once.

        Raises:
            RivalError: If this call fails; at every later one too if the process cannot start.
        """
        if self.failure is not None:
            raise RivalError(self.failure)
        answer = self._ask(
            {
                "prompts": prompts,
                "seeds": list(range(len(prompts))),
                "new_tokens": new_tokens,
                "temperature": temperature,
                "mode": mode,
                "concurrent": is_concurrent,
            }
        )
        short = [len(tokens) for tokens in answer["tokens"] if len(tokens) != new_tokens]
        if short:
            raise RivalError(f"{self.name} ({mode}): {short[0]} tokens instead of {new_tokens}")
        return Measured(
            answer[f"{clock}_seconds"],
            answer["tokens"],
            sum(drafts for drafts, *_ in answer["rounds"]),
            sum(drafted for _, drafted, *_ in answer["rounds"]),
            _sum_by_place([accepted for _, _, accepted, _ in answer["rounds"]]),
            answer["peak_bytes"],
            answer["own_bytes"],
            sum(seconds for *_, seconds in answer["rounds"]),
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._process is None:
            self._process = self._start()
            self._read()
        assert self._process.stdin is not None, "a pipe"
        # A process that was killed has closed its end; reading says how it ended.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return self._read()

    @property
    def _log(self) -> Path:
        return LOGS / f"{self.name.replace(', ', '-').replace(' ', '-')}.log"

    def _start(self) -> "subprocess.Popen[str]":
        LOGS.mkdir(parents=True, exist_ok=True)
        threads = str(self.options["threads"])
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "VIRTUAL_ENV")
        } | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        # vLLM compiles and looks for its tools beside its interpreter.
        environment["PATH"] = f"{self.python.parent}{os.pathsep}{environment['PATH']}"
        if self.is_ours:
            environment["PYTHONPATH"] = str(TESTS.parent)
        with self._log.open("w") as log:
            return subprocess.Popen(
                [str(self.python), "-m", f"benchmarks.{self.worker}", json.dumps(self.options)],
                cwd=TESTS,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _last_words(self) -> str:
        assert self._process is not None, "started"
        code = self._process.wait()
        why = " (killed: out of memory?)" if code == -signal.SIGKILL else ""
        return f"process ended with {code}{why}; its log is {self._log}"

    def _read(self) -> dict[str, Any]:
        assert self._process is not None, "started"
        assert self._process.stdout is not None, "a pipe"
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            self.failure = " ".join(answer["error"].split())[:300]
            self.close()
            raise RivalError(self.failure)
        if "failed" in answer:
            raise RivalError(" ".join(answer["failed"].split())[:300])
        return dict(answer)


def _sum_by_place(lists: list[list[int]]) -> list[int]:
    longest = max(map(len, lists), default=0)
    return [sum(items[place] for items in lists if place < len(items)) for place in range(longest)]
