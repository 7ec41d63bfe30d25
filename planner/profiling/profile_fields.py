"""Numbers of a foreign result file, each checked, so that a zero or NaN never becomes a speed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.errors import DocumentError
from planner.profiling.profile import Cell, TakenUnder


@dataclass(frozen=True, slots=True)
class Imported:
    """What one object of a file says."""

    cells: Mapping[tuple[int, int], Cell]
    """By input and output tokens."""
    model: str | None = None
    """Name of the model, where it is told."""
    taken_under: TakenUnder | None = None
    """Target of the cells' rates, where they are no runs."""


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of a result file, and where it stands, for messages."""

    path: Path
    content: Mapping[str, Any]
    where: str = ""
    """Such as `line 3` or `input 128, output 64 tokens`."""

    def __contains__(self, name: str) -> bool:
        """Tell whether a field is there and not null."""
        return self.content.get(name) is not None

    def at(self, where: str) -> "Fields":
        """Return the same fields under another place."""
        return Fields(self.path, self.content, where)

    def inside(self, name: str) -> "Fields":
        """Return an object in a field; one that is missing is empty."""
        inner = self.content.get(name)
        where = f"{self.where}, {name}" if self.where else name
        return Fields(self.path, inner if isinstance(inner, dict) else {}, where)

    def text(self, name: str) -> str | None:
        """Return a word; nothing where there is none."""
        value = self.content.get(name)
        return value if isinstance(value, str) and value else None

    def number(self, name: str) -> float:
        """Return a finite number.

        Raises:
            DocumentError: Names place, field and value.
        """
        value = self.content.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            shown = "missing" if value is None else f"{value!r}, no number"
            raise self.error(f"{name} is {shown}")
        if not math.isfinite(value):
            raise self.error(f"{name} is {value}, no finite number")
        return value

    def positive(self, name: str) -> float:
        """Return a number above 0.

        Raises:
            DocumentError: Names place, field and value.
        """
        value = self.number(name)
        if value <= 0:
            raise self.error(f"{name} is {value:g}; a measured value is above 0")
        return value

    def count(self, name: str) -> int:
        """Return a whole number from 0.

        Raises:
            DocumentError: Names place, field and value.
        """
        value = self.number(name)
        if value < 0 or value != int(value):
            raise self.error(f"{name} is {value:g}; give a whole number from 0")
        return int(value)

    def error(self, problem: str) -> DocumentError:
        """Return the failure that names the place."""
        place = f"{self.where}: " if self.where else ""
        return DocumentError(self.path, f"{place}{problem}; benchmark it again or drop it")


def size_name(input_tokens: float, output_tokens: float) -> str:
    """Return a cell in words."""
    return f"input {input_tokens:g}, output {output_tokens:g} tokens"
