"""The tasks of a round: the remote's, checked before any runs; without one, the question itself."""

from collections.abc import Sequence
from dataclasses import dataclass

from router.minions import prompts
from router.minions.asking import Message
from router.minions.chunks import Chunk, Document
from router.minions.config import MinionsConfig
from router.minions.outcome import EndedError, Result
from router.minions.plan import (
    MAX_TASK_CHARACTERS,
    AllChunks,
    Bounds,
    Plan,
    PlanProblemError,
    RetrievedChunks,
    Task,
    TooManyJobsError,
    choose_chunks,
    read_plan,
)
from router.minions.plan_schema import plan_schema
from router.minions.remote_desk import RemoteDesk
from router.minions.retrieval import Retrieval

NOTES_CHARACTERS = 2000
"""Most of the remote's own notes that it is shown again."""


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """A task list that may run."""

    plan: Plan
    chunks: tuple[tuple[Chunk, ...], ...]
    """Of each task."""


class Planning:
    """Has the remote write task lists for one question."""

    def __init__(
        self,
        remote: RemoteDesk,
        config: MinionsConfig,
        *,
        question: str,
        documents: Sequence[Document],
        chunks: Sequence[Chunk],
        retrieval: Retrieval,
    ) -> None:
        """Take what the tasks are about; `retrieval` is over the chunks' texts."""
        self._remote = remote
        self._config = config
        self._question = question
        self._description = prompts.describe(documents, len(chunks), config.chunk_tokens)
        self._chunks = chunks
        self._retrieval = retrieval
        self._advice = ""

    async def first(self, *, max_jobs: int) -> RoundPlan:
        """Return the first round's tasks.

        Raises:
            EndedError: If no list the remote wrote may run, or its tokens are used up.
            LegError: If the remote does not answer.
        """
        if self._config.advises and not self._advice:
            asked = prompts.advise(self._question)
            reply = await self._remote.ask(asked, max_tokens=self._config.plan_answer_tokens)
            self._advice = reply.text.strip()[:NOTES_CHARACTERS]
        bounds = Bounds(self._config.max_tasks, max_jobs)
        messages = prompts.decompose(self._question, self._description, bounds, self._advice)
        return await self._ask(messages, bounds)

    async def again(
        self, earlier: Sequence[Task], *, feedback: str, scratchpad: str, max_jobs: int
    ) -> RoundPlan:
        """Return a later round's tasks, which may refer to those before.

        Raises:
            EndedError: If no list the remote wrote may run, or its tokens are used up.
            LegError: If the remote does not answer.
        """
        if max_jobs < 1:
            raise EndedError(Result.JOB_LIMIT)
        notes = [("Missing", feedback), ("Your notes", scratchpad)]
        state = "".join(f"{name}: {text[:NOTES_CHARACTERS]}\n\n" for name, text in notes if text)
        bounds = Bounds(self._config.max_tasks, max_jobs, num_earlier_tasks=len(earlier))
        messages = prompts.decompose_again(
            self._question, self._description, bounds, earlier=earlier, state=state
        )
        return await self._ask(messages, bounds)

    def own(self, *, max_jobs: int) -> RoundPlan:
        """Return the question itself as the only task, on every chunk or the likeliest ones."""
        choice = AllChunks(kind="all")
        if len(self._chunks) > max_jobs:
            chosen = RetrievedChunks(kind="retrieve", query=self._question[:1000], top_k=max_jobs)
            task = Task(task=self._question[-MAX_TASK_CHARACTERS:], chunks=chosen)
        else:
            task = Task(task=self._question[-MAX_TASK_CHARACTERS:], chunks=choice)
        return self._checked(Plan(tasks=(task,)), Bounds(max_tasks=1, max_jobs=max_jobs))

    async def _ask(self, messages: Sequence[Message], bounds: Bounds) -> RoundPlan:
        try:
            return await self._remote.ask_for(
                lambda text: self._checked(read_plan(text), bounds),
                messages,
                max_tokens=self._config.plan_answer_tokens,
                schema=plan_schema(
                    num_chunks=len(self._chunks), num_earlier_tasks=bounds.num_earlier_tasks
                ),
            )
        except TooManyJobsError:
            raise EndedError(Result.JOB_LIMIT) from None
        except PlanProblemError:
            raise EndedError(Result.PLAN_REFUSED) from None

    def _checked(self, plan: Plan, bounds: Bounds) -> RoundPlan:
        return RoundPlan(plan, choose_chunks(plan, self._chunks, self._retrieval, bounds))
