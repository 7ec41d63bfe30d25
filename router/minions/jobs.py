"""Jobs: one task on one chunk, asked of the local model, many at once."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from router.errors import LegError
from router.minions import prompts
from router.minions.asking import Ask, Message
from router.minions.chunks import Chunk
from router.minions.plan import Task
from router.minions.replies import FINDING_SCHEMA, Finding, ReplyProblemError, read_finding

MAX_FAILURES_IN_A_ROW = 8
"""Jobs that get no answer at all, one after the other, before the rest of a round is not asked."""


class JobEnd(StrEnum):
    """How a job ended."""

    FOUND = "found"
    EMPTY = "empty"
    """The chunk does not hold it."""
    ABSTAINED = "abstained"
    """No usable answer, repair included."""
    FAILED = "failed"
    """No replica answered, or the time was over."""


@dataclass(frozen=True, slots=True)
class Job:
    """A task on a chunk."""

    task_number: int
    """From 1, over all rounds."""
    task: Task
    chunk: Chunk
    known: str = ""
    """Findings of earlier tasks it is shown."""


@dataclass(frozen=True, slots=True)
class JobOutput:
    """What came of a job."""

    job: Job
    end: JobEnd
    finding: Finding | None = None
    """Where something was found."""
    problem: str = ""
    """Why it failed, for the client."""


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What bounds the jobs of one round."""

    max_concurrent: int
    max_tokens: int
    repair_attempts: int


def make_jobs(
    tasks: Sequence[Task],
    chosen: Sequence[Sequence[Chunk]],
    known: Sequence[str],
    *,
    first_number: int,
) -> tuple[Job, ...]:
    """Return the product of tasks and their chunks, chunk by chunk: neighbours share a prefix."""
    jobs = [
        Job(first_number + place, task, chunk, known[place])
        for place, task in enumerate(tasks)
        for chunk in chosen[place]
    ]
    return tuple(sorted(jobs, key=lambda job: (job.chunk.number, job.task_number)))


async def run_jobs(
    jobs: Sequence[Job], ask: Ask, limits: JobLimits, *, on_output: Callable[[JobOutput], None]
) -> None:
    """Run every job; `on_output` is called as each ends.

    Cancelled, it cancels the jobs under way. Where the local model does not answer at all
    (`MAX_FAILURES_IN_A_ROW`), the jobs left are not begun and end as failed.
    """
    waiting = iter(jobs)
    failures = _Failures()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(limits.max_concurrent, len(jobs))):
            group.create_task(_work(waiting, ask, limits, failures, on_output))


@dataclass(slots=True)
class _Failures:
    num_in_a_row: int = 0

    @property
    def are_too_many(self) -> bool:
        return self.num_in_a_row >= MAX_FAILURES_IN_A_ROW


async def _work(
    waiting: Iterator[Job],
    ask: Ask,
    limits: JobLimits,
    failures: _Failures,
    on_output: Callable[[JobOutput], None],
) -> None:
    for job in waiting:
        if failures.are_too_many:
            on_output(JobOutput(job, JobEnd.FAILED))
            continue
        try:
            output = await run_job(job, ask, limits)
            failures.num_in_a_row = 0
        except LegError as error:
            failures.num_in_a_row += 1
            problem = ": ".join(filter(None, (error.problem, error.said)))
            output = JobOutput(job, JobEnd.FAILED, problem=problem)
        on_output(output)


async def run_job(job: Job, ask: Ask, limits: JobLimits) -> JobOutput:
    """Ask for one finding; an answer that cannot be read is sent back `repair_attempts` times.

    Raises:
        LegError: If the local model gives no answer.
    """
    messages: list[Message] = [*prompts.job(job.task, job.chunk, known=job.known)]
    for _ in range(1 + limits.repair_attempts):
        reply = await ask(messages, max_tokens=limits.max_tokens, schema=FINDING_SCHEMA)
        try:
            finding = read_finding(reply.text)
        except ReplyProblemError as error:
            if reply.finish_reason == "length":
                break  # it would be cut off again
            messages += prompts.corrected(reply.text, str(error))
            continue
        if finding.answer is None:
            return JobOutput(job, JobEnd.EMPTY)
        return JobOutput(job, JobEnd.FOUND, finding)
    return JobOutput(job, JobEnd.ABSTAINED)
