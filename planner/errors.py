"""Failures of the planner and of the documents every package reads.

PlannerError
├── DocumentError     a file that cannot be read, or does not say what its schema asks
├── WorkloadError     a trace or a mix that gives no workload, or not on the grid asked for
├── PlotError         a plot was asked for and cannot be drawn here
├── InfeasibleError   a plan was demanded and none exists
├── TimeLimitError    a plan was demanded and none was found in time
├── SolverError       a solver is missing or broke down
└── DemoError         a command of the demo failed
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


class WorkloadError(PlannerError):
    """A trace or a mix gives no workload: no rate, no such requests, or sizes outside the grid."""


class PlotError(PlannerError):
    """A plot was asked for and the package that draws it is not installed."""


class InfeasibleError(PlannerError):
    """No plan meets the constraints; the message names what binds."""

    exit_code: ClassVar[int] = 3


class TimeLimitError(PlannerError):
    """No plan was found in the time given, and none was shown to be impossible."""

    exit_code: ClassVar[int] = 4


class SolverError(PlannerError):
    """A solver is missing, broke down, or contradicts itself."""

    exit_code: ClassVar[int] = 1


class DemoError(PlannerError):
    """A command of the demo failed; the message holds its last words and where its log is."""

    exit_code: ClassVar[int] = 1
