"""What a soak reads of an endpoint from outside: what its processes hold, its metrics once idle."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Holding:
    """What a process holds at one moment."""

    resident_bytes: int
    num_threads: int
    num_files: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Read it of a process that runs.

        Raises:
            FileNotFoundError: If it does not.
            ProcessLookupError: If it ends meanwhile.
        """
        folder = Path(f"/proc/{pid}")
        lines = folder.joinpath("status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return cls(
            # An ended process that nobody has waited for has no memory.
            resident_bytes=int(fields.get("VmRSS", "0 kB").split()[0]) * 1024,
            num_threads=int(fields["Threads"]),
            num_files=sum(1 for _ in folder.joinpath("fd").iterdir()),
        )


def children(pid: int) -> list[int]:
    """Return the processes that a process started, of any of its threads."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def wait_until_ended(pids: list[int], seconds: float = 10) -> None:
    """Wait until none of these processes runs; one that nobody has waited for has ended.

    Raises:
        AssertionError: If one still does.
    """
    deadline = time.monotonic() + seconds
    while running := [pid for pid in pids if _runs(pid)]:
        assert time.monotonic() < deadline, f"left running: {running}"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return "State:\tZ" not in status


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and those it started."""
    return Holding.of(pid).resident_bytes + sum(map(resident_bytes, children(pid)))


def metrics(url: str) -> dict[str, float]:
    """Return an endpoint's metrics by name; of several labels the last."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return {sample.name: sample.value for family in families for sample in family.samples}


def idle_metrics(url: str) -> dict[str, float]:
    """Return the endpoint's metrics once clients that left have taken their sequences along."""
    for _ in range(100):
        values = metrics(url)
        if values["vllm:num_requests_running"] == values["vllm:num_requests_waiting"] == 0:
            return values
        time.sleep(0.1)
    raise AssertionError("sequences of clients that left are still there")
