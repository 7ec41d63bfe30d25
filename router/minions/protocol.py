"""MinionS: the remote writes tasks, the local model runs them on every chunk, the remote judges.

Source: arXiv 2502.15964 (HazyResearch/minions); tasks are data here, never code.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from planner.threads import in_thread
from router.errors import LegError
from router.minions import prompts
from router.minions.asking import Ask
from router.minions.chunks import Chunk, Document
from router.minions.closing import as_it_is, room_bytes, verdict_on
from router.minions.config import MinionsConfig
from router.minions.fold import Order, fold
from router.minions.jobs import JobEnd, JobLimits, JobOutput, make_jobs, run_jobs
from router.minions.outcome import EndedError, Outcome, Result
from router.minions.plan import Task
from router.minions.planning import NOTES_CHARACTERS, Planning, RoundPlan
from router.minions.remote_desk import RemoteDesk
from router.minions.replies import Verdict
from router.minions.retrieval import Retrieval

KNOWN_BYTES = 1000
"""Most findings of earlier tasks that a job is shown."""
MAX_TOLD_PROBLEMS = 3
TOLD_JOBS_FRACTION = 0.1
"""How often a round's progress is told."""


@dataclass(slots=True)
class _SoFar:
    """What is there."""

    num_rounds: int = 0
    tasks: list[Task] = field(default_factory=list)
    outputs: list[JobOutput] = field(default_factory=list)
    order: Order = "by_task"
    feedback: str = ""
    scratchpad: str = ""


class Minions:
    """One answer by decomposition."""

    def __init__(
        self,
        local: Ask,
        remote: RemoteDesk,
        config: MinionsConfig,
        *,
        max_answer_tokens: int,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Take both models; `tell` is given a line whenever something goes on."""
        self._local = local
        self._remote = remote
        self._config = config
        self._max_answer_tokens = max_answer_tokens
        self._tell = tell
        self._question = ""
        self._so_far = _SoFar()

    async def answer(
        self, question: str, documents: Sequence[Document], chunks: Sequence[Chunk]
    ) -> Outcome:
        """Return a marked answer, within the limits whatever the models do.

        Raises:
            LegError: If the models do not answer and nothing was found.
        """
        self._question = question
        ends_at = asyncio.get_running_loop().time() + self._config.wall_seconds
        retrieval = await in_thread(Retrieval, [chunk.text for chunk in chunks])
        planning = Planning(
            self._remote,
            self._config,
            question=question,
            documents=documents,
            chunks=chunks,
            retrieval=retrieval,
        )
        try:
            async with asyncio.timeout_at(ends_at - self._config.closing_seconds):
                return self._outcome(await self._rounds(planning), Result.FINISHED)
        except TimeoutError:
            end = EndedError(Result.TIME_LIMIT)
        except EndedError as error:
            end = error
        except LegError:
            end = EndedError(Result.REMOTE_UNAVAILABLE)
        return await self._close(end, ends_at)

    async def _rounds(self, planning: Planning) -> str:
        for number in range(1, self._config.max_rounds + 1):
            self._tell(f"round {number}: planning")
            self._so_far.num_rounds = number
            await self._execute(await self._plan(planning))
            is_last = number == self._config.max_rounds
            verdict = await self._judge(is_last=is_last)
            if verdict.decision == "final" and verdict.answer:
                return verdict.answer
            if is_last:
                raise EndedError(Result.ROUND_LIMIT, answer=verdict.answer)
            self._so_far.feedback = verdict.feedback or ""
            self._so_far.scratchpad = (verdict.scratchpad or "")[:NOTES_CHARACTERS]
        raise AssertionError("at least one round is configured")

    async def _plan(self, planning: Planning) -> RoundPlan:
        """Return the next round's tasks; without any in the first, have the question itself run."""
        so_far = self._so_far
        max_jobs = self._config.max_jobs - len(so_far.outputs)
        if so_far.tasks:
            return await planning.again(
                so_far.tasks,
                feedback=so_far.feedback,
                scratchpad=so_far.scratchpad,
                max_jobs=max_jobs,
            )
        try:
            return await planning.first(max_jobs=max_jobs)
        except (EndedError, LegError):
            self._tell("no usable tasks: the question is asked of the chunks as it is")
            await self._execute(planning.own(max_jobs=max_jobs))
            raise

    async def _execute(self, round_plan: RoundPlan) -> None:
        so_far, plan = self._so_far, round_plan.plan
        known = [self._known(task) for task in plan.tasks]
        first = len(so_far.tasks) + 1
        jobs = make_jobs(plan.tasks, round_plan.chunks, known, first_number=first)
        so_far.tasks += plan.tasks
        so_far.order = plan.fold
        num_before, num_done = len(so_far.outputs), 0
        every = max(1, int(len(jobs) * TOLD_JOBS_FRACTION))

        def take(output: JobOutput) -> None:
            nonlocal num_done
            so_far.outputs.append(output)
            num_done += 1
            if num_done % every == 0:
                self._tell(f"round {so_far.num_rounds}: {num_done} of {len(jobs)} jobs")

        self._tell(f"round {so_far.num_rounds}: {len(plan.tasks)} tasks, {len(jobs)} jobs")
        await run_jobs(jobs, self._local, self._job_limits(), on_output=take)
        ends = {output.end for output in so_far.outputs[num_before:]}
        if ends == {JobEnd.FAILED}:
            raise EndedError(Result.LOCAL_UNAVAILABLE)

    def _job_limits(self) -> JobLimits:
        config = self._config
        return JobLimits(
            config.max_concurrent_jobs, config.job_answer_tokens, config.repair_attempts
        )

    def _known(self, task: Task) -> str:
        wanted = set(task.earlier)
        outputs = [each for each in self._so_far.outputs if each.job.task_number in wanted]
        return fold(outputs, "by_task", max_bytes=KNOWN_BYTES)

    async def _judge(self, *, is_last: bool) -> Verdict:
        self._tell(f"round {self._so_far.num_rounds}: judging")
        scratchpad = self._so_far.scratchpad
        bare = prompts.synthesise(self._question, "", scratchpad=scratchpad, is_last=is_last)
        max_bytes = room_bytes(
            self._remote,
            bare,
            findings_tokens=self._config.findings_tokens,
            max_answer_tokens=self._max_answer_tokens,
            is_last=is_last,
        )
        return await verdict_on(
            self._remote,
            self._question,
            fold(self._so_far.outputs, self._so_far.order, max_bytes=max_bytes),
            scratchpad=scratchpad,
            max_answer_tokens=self._max_answer_tokens,
            is_last=is_last,
        )

    async def _close(self, end: EndedError, ends_at: float) -> Outcome:
        """Return the answer of what is there; the remote gives it if it can."""
        if end.answer:
            return self._outcome(end.answer, end.result)
        max_bytes = self._remote.bytes_of(self._config.findings_tokens)
        findings = fold(self._so_far.outputs, self._so_far.order, max_bytes=max_bytes)
        if end.result is not Result.REMOTE_UNAVAILABLE:
            self._tell(f"{end.result}: answering from what is there")
            try:
                async with asyncio.timeout_at(ends_at):
                    verdict = await self._judge(is_last=True)
                if verdict.answer:
                    return self._outcome(verdict.answer, end.result)
            except (TimeoutError, EndedError):
                pass  # the findings are the answer, and it says so
            except LegError:
                if not findings:
                    raise
        return self._outcome(as_it_is(findings), end.result, is_synthesised=False)

    def _outcome(self, answer: str, result: Result, *, is_synthesised: bool = True) -> Outcome:
        ends = Counter(output.end for output in self._so_far.outputs)
        problems = dict.fromkeys(each.problem for each in self._so_far.outputs if each.problem)
        return Outcome(
            answer=answer,
            result=result,
            is_synthesised=is_synthesised,
            num_rounds=self._so_far.num_rounds,
            num_jobs=len(self._so_far.outputs),
            num_empty=ends[JobEnd.EMPTY],
            num_abstained=ends[JobEnd.ABSTAINED],
            num_failed=ends[JobEnd.FAILED],
            problems=tuple(problems)[:MAX_TOLD_PROBLEMS],
        )
