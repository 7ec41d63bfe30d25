"""Failures of the planner and of the documents every package reads.

PlannerError
├── DocumentError     a file that cannot be read, or does not say what its schema asks
├── WorkloadError     a trace or a mix that gives no workload, or not on the grid asked for
├── PriceError        a device has no price, or several
├── ProfileError      a profile or a benchmark's file that does not tell what is asked of it
├── EndpointError     a live endpoint that cannot be measured
├── PlotError         a plot was asked for and cannot be drawn here
├── UnverifiableError a latency cannot be replayed: the speeds are not known step by step
├── InfeasibleError   a plan was demanded and none exists
├── TimeLimitError    a plan was demanded and none was found in time
├── SolverError       a solver is missing or broke down
├── RenderError       a plan cannot be rendered for a target, or not into that folder
├── HubError          a model's config.json cannot be fetched
├── SpeculationError  a draft cannot be placed and priced as asked
├── TrainingPlanError a training plan asked for with words that do not fit
├── BrokenPlanError   a training plan that breaks its own cluster's rules
├── UnknownNameError  a device, model or set of coefficients that no catalogue lists
└── DemoError         a command of the demo failed
"""

import difflib
from collections.abc import Iterable, Sequence
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


class PriceError(PlannerError):
    """An offer's price is neither given nor to be found, or several are found."""


class ProfileError(PlannerError):
    """A profile, or a benchmark's result file, does not tell what is asked of it."""


class EndpointError(PlannerError):
    """A live endpoint cannot be measured: not there, refuses us, or does not count tokens."""


class PlotError(PlannerError):
    """A plot was asked for and the package that draws it is not installed."""


class UnverifiableError(PlannerError):
    """A plan's latency cannot be replayed; the message says what is not known."""


class InfeasibleError(PlannerError):
    """No plan meets the constraints; the message names what binds."""

    exit_code: ClassVar[int] = 3


class TimeLimitError(PlannerError):
    """No plan was found in the time given, and none was shown to be impossible."""

    exit_code: ClassVar[int] = 4


class SolverError(PlannerError):
    """A solver is missing, broke down, or contradicts itself."""

    exit_code: ClassVar[int] = 1


class RenderError(PlannerError):
    """A plan cannot be turned into files for a target, or the folder is not to be replaced."""


class HubError(PlannerError):
    """A model's config.json is not on this machine and cannot be fetched from the hub."""


class SpeculationError(PlannerError):
    """What is asked about drafting has no answer: no room, no such format, or no cost known."""


class TrainingPlanError(PlannerError):
    """A training plan is asked for with words that do not fit, or of nothing."""


class BrokenPlanError(PlannerError):
    """A training plan breaks a rule: a sequence missing, a device in two groups, a wrong time."""

    exit_code: ClassVar[int] = 1


class UnknownNameError(PlannerError):
    """A name stands in no catalogue; the message lists the nearest that do."""

    def __init__(self, kind: str, name: str, known: Iterable[str], remedy: str) -> None:
        """Name what was asked for, the nearest known names, and what to do."""
        self.kind = kind
        self.name = name
        self.near = nearest(name, tuple(known))
        super().__init__(f"no {kind} is called {name}; near: {', '.join(self.near)}; {remedy}")


def nearest(name: str, known: Sequence[str]) -> tuple[str, ...]:
    """Return up to five known names closest to `name`, or every one where none is close."""
    return close_names(name, known) or tuple(known)


def close_names(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Return up to five known names closest to `name`; none where none is close."""
    plain = {_plain(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_plain(name), plain, n=5, cutoff=0.5)
    inside = [text for text in plain if _plain(name) in text and text not in close]
    return tuple(plain[text] for text in [*close, *inside][:5])


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


class DemoError(PlannerError):
    """A command of the demo failed; the message holds its last words and where its log is."""

    exit_code: ClassVar[int] = 1
