"""What the kernel says of a process on this machine, also of one whose threads cannot answer."""

import os
import socket
from pathlib import Path
from typing import Literal

ProcessState = Literal["living", "stopped", "gone", "unknown"]
"""Stopped: by SIGSTOP or a debugger, until it is let go on. Unknown: no such view of processes."""

_STATES: dict[str, ProcessState] = {"T": "stopped", "t": "stopped", "Z": "gone", "X": "gone"}


def this_host() -> str:
    """Return what tells this machine from others, and its processes' numbers from a container's."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: nobody else's processes are seen either
        return f"{socket.gethostname()} {os.getpid()}"


def host_name() -> str:
    """Return this machine's name for people."""
    return socket.gethostname()


def process_state(process_id: int) -> ProcessState:
    """Return the state of a process of this machine."""
    try:
        line = Path(f"/proc/{process_id}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "gone" if Path("/proc/self/stat").exists() else "unknown"
    except ProcessLookupError:  # it ended between opening and reading
        return "gone"
    except OSError:
        return "unknown"
    return _STATES.get(line.rpartition(")")[2].split()[0], "living")
