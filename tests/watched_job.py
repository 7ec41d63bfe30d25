"""What tests of whole fine-tuning jobs look at: who watches, and what a run leaves."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Watcher:
    """Records the steps and, asked to, interrupts the job after so many."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.interrupt_after = interrupt_after
        self.rounds: list[int] = []

    def phase(self, text: str) -> None:
        pass

    def step(self, round_number: int, loss: float) -> None:
        self.rounds.append(round_number)
        if len(self.rounds) == self.interrupt_after:
            raise KeyboardInterrupt

    def round_done(self, history: Sequence[Any], *, num_rounds: int) -> None:
        self.history = list(history)


def metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics lines without their times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
