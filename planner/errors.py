"""Failures of the planner and of the documents every package reads.

PlannerError
├── DocumentError     a file that cannot be read, or does not say what its schema asks
└── InfeasibleError   a plan was demanded and none exists
"""

from pathlib import Path
from typing import ClassVar


class PlannerError(Exception):
    """Root of the planner's failures; its message is one line: what, the value, what to do."""

    exit_code: ClassVar[int] = 2


class DocumentError(PlannerError):
    """A document is missing, malformed, or breaks its schema."""

    def __init__(self, path: Path, problem: str) -> None:
        """Name the file and the problem in one line."""
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class InfeasibleError(PlannerError):
    """No plan meets the constraints; the message names what binds."""

    exit_code: ClassVar[int] = 3
