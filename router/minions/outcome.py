"""How an answer came about."""

from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """What ended a protocol; every answer carries one."""

    FINISHED = "finished"
    """The remote model said that the answer is complete."""
    ROUND_LIMIT = "round_limit"
    JOB_LIMIT = "job_limit"
    """The remote asked for more jobs than may be, however often it was told."""
    TOKEN_LIMIT = "token_limit"
    """The remote's tokens were used up."""
    TIME_LIMIT = "time_limit"
    PLAN_REFUSED = "plan_refused"
    """The remote wrote nothing of the shape it was asked for, however often it was told."""
    LOCAL_UNAVAILABLE = "local_unavailable"
    """The local model did not answer; the answer is made of what was found before, if anything."""
    REMOTE_UNAVAILABLE = "remote_unavailable"
    """The remote model did not answer; the answer is the local model's findings as they are."""


class EndedError(Exception):
    """A protocol cannot go on; what is there is made an answer."""

    def __init__(self, result: Result, *, answer: str | None = None) -> None:
        """Name the result, and the answer where there is one already."""
        super().__init__(str(result))
        self.result = result
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, marked."""

    answer: str
    result: Result
    is_synthesised: bool = True
    """False: the findings themselves, for want of the remote model."""
    num_rounds: int = 0
    num_jobs: int = 0
    num_empty: int = 0
    """Jobs whose chunk did not hold it."""
    num_abstained: int = 0
    """Jobs without a usable answer."""
    num_failed: int = 0
    """Jobs that no replica answered."""
    problems: tuple[str, ...] = ()
    """Why jobs failed, each reason once, a few at most; for the client only."""
