"""What tests compare of a local run's folder."""

import json
from pathlib import Path
from typing import Any

TIMES = {"seconds", "planning_seconds", "waited_seconds"}


def step_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of `metrics.jsonl` without what a clock told."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def losses(folder: Path) -> list[float]:
    """Return each step's loss."""
    return [line["loss"] for line in step_lines(folder)]


def leavings(folder: Path) -> dict[str, object]:
    """Return what does not depend on a clock: bytes of checkpoint and result, steps without times."""
    files: dict[str, object] = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and (path.parent != folder or path.name in _SAME)
    }
    return files | {"metrics.jsonl": step_lines(folder)}


_SAME = ("checkpoint.safetensors", "result.json")
