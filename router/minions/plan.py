"""The remote model's task list: data, never code.

{"tasks": [{"task": "Find every revenue figure of 2023", "advice": "Tables may state thousands",
            "chunks": {"kind": "all"}}], "fold": "by_task"}

`chunks` is `all`, a `range` (first and last number) or `retrieve` (query, top_k). From the second
round on `earlier` names tasks by number whose findings the workers are shown. Nothing else can be
said; an unknown key is refused. What is wrong is told in words the remote can act upon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from planner.config import StrictModel
from router.minions.chunks import Chunk
from router.minions.json_text import NoObjectError, read_json_object
from router.minions.replies import ReplyProblemError
from router.minions.retrieval import Retrieval

MAX_TOLD_PROBLEMS = 5
MAX_TASK_CHARACTERS = 4000

Number = Annotated[int, Field(ge=1, strict=True)]


class PlanProblemError(ReplyProblemError):
    """A task list cannot be run; the message goes back to the remote model."""


class TooManyJobsError(PlanProblemError):
    """Tasks times chunks are over the limit."""


class AllChunks(StrictModel):
    """Every chunk."""

    kind: Literal["all"]


class ChunkRange(StrictModel):
    """Chunks by number, both ends included."""

    kind: Literal["range"]
    first: Number
    last: Number


class RetrievedChunks(StrictModel):
    """The chunks that speak most of a query."""

    kind: Literal["retrieve"]
    query: Annotated[str, Field(min_length=1, max_length=1000, strict=True)]
    top_k: Number


ChunkChoice = Annotated[AllChunks | ChunkRange | RetrievedChunks, Field(discriminator="kind")]


class Task(StrictModel):
    """One question, asked of each of its chunks by itself."""

    task: Annotated[str, Field(min_length=1, max_length=MAX_TASK_CHARACTERS, strict=True)]
    advice: Annotated[str, Field(max_length=MAX_TASK_CHARACTERS, strict=True)] = ""
    """A hint for whoever reads."""
    chunks: ChunkChoice = AllChunks(kind="all")
    """Where to look."""
    earlier: tuple[Number, ...] = ()
    """Numbers of tasks of earlier rounds whose findings are shown with this one."""


class Plan(StrictModel):
    """The tasks of one round."""

    tasks: Annotated[tuple[Task, ...], Field(min_length=1)]
    fold: Literal["by_task", "by_chunk"] = "by_task"
    """How the findings are grouped for the remote."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a task list may ask for."""

    max_tasks: int
    max_jobs: int
    num_earlier_tasks: int = 0


def read_plan(text: str) -> Plan:
    """Return the task list in a reply; words and a code fence around it are passed over.

    Raises:
        PlanProblemError: If there is none, or it is not of the shape.
    """
    try:
        return Plan.model_validate(read_json_object(text))
    except NoObjectError as error:
        raise PlanProblemError(str(error)) from None
    except ValidationError as error:
        raise PlanProblemError(_told(error)) from None


def choose_chunks(
    plan: Plan, chunks: Sequence[Chunk], retrieval: Retrieval, bounds: Bounds
) -> tuple[tuple[Chunk, ...], ...]:
    """Return each task's chunks, in order.

    Raises:
        TooManyJobsError: If the tasks, or tasks times chunks, are over the bounds.
        PlanProblemError: If a range or an earlier task does not exist.
    """
    if len(plan.tasks) > bounds.max_tasks:
        raise TooManyJobsError(
            f"tasks: {len(plan.tasks)} of them; write at most {bounds.max_tasks}"
        )
    chosen = tuple(
        _chunks_of(task, place, chunks, retrieval, bounds) for place, task in enumerate(plan.tasks)
    )
    num_jobs = sum(map(len, chosen))
    if num_jobs > bounds.max_jobs:
        raise TooManyJobsError(
            f"tasks times chunks are {num_jobs}; ask for at most {bounds.max_jobs}: fewer tasks, a "
            "range, or retrieve"
        )
    return chosen


def _chunks_of(
    task: Task, place: int, chunks: Sequence[Chunk], retrieval: Retrieval, bounds: Bounds
) -> tuple[Chunk, ...]:
    for number in task.earlier:
        if number > bounds.num_earlier_tasks:
            raise PlanProblemError(
                f"tasks.{place}.earlier: {number} is no earlier task; there are "
                f"{bounds.num_earlier_tasks}"
            )
    choice = task.chunks
    if isinstance(choice, ChunkRange):
        if not choice.first <= choice.last <= len(chunks):
            raise PlanProblemError(
                f"tasks.{place}.chunks: {choice.first} to {choice.last} is no range of chunks; they "
                f"go from 1 to {len(chunks)}"
            )
        return tuple(chunks[choice.first - 1 : choice.last])
    if isinstance(choice, RetrievedChunks):
        return tuple(chunks[found] for found in retrieval.best(choice.query, top_k=choice.top_k))
    return tuple(chunks)


def _told(error: ValidationError) -> str:
    problems = [
        f"{'.'.join(map(str, each['loc'])) or 'the object'}: {each['msg']}"
        for each in error.errors(include_url=False, include_input=False)
    ]
    more = f" (and {len(problems) - MAX_TOLD_PROBLEMS} more)" * (len(problems) > MAX_TOLD_PROBLEMS)
    return "; ".join(problems[:MAX_TOLD_PROBLEMS])[:1000] + more
