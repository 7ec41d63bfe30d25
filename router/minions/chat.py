"""Minion: the two models talk; the local one has the whole document in its system prompt.

Source: arXiv 2502.15964 (HazyResearch/minions), the naive protocol.
"""

import asyncio
from collections.abc import Callable, Sequence

from router.errors import LegError
from router.minions import prompts
from router.minions.asking import Ask
from router.minions.chunks import Document
from router.minions.closing import as_it_is
from router.minions.config import MinionsConfig
from router.minions.outcome import EndedError, Outcome, Result
from router.minions.remote_desk import RemoteDesk
from router.minions.replies import TURN_SCHEMA, ReplyProblemError, Turn, read_turn

Exchange = tuple[str, str]
"""What the remote asked, and what the local model said."""


class Chat:
    """One answer by conversation."""

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
        self._exchanges: list[Exchange] = []

    async def answer(self, question: str, documents: Sequence[Document]) -> Outcome:
        """Return a marked answer, within the limits whatever the models do.

        Raises:
            LegError: If a model does not answer and nothing was said before.
        """
        ends_at = asyncio.get_running_loop().time() + self._config.wall_seconds
        text = "\n\n".join(_with_title(document) for document in documents)
        try:
            async with asyncio.timeout_at(ends_at - self._config.closing_seconds):
                return self._outcome(await self._turns(question, text), Result.FINISHED)
        except TimeoutError:
            end = EndedError(Result.TIME_LIMIT)
        except EndedError as error:
            end = error
        return await self._close(question, text, end, ends_at)

    async def _turns(self, question: str, text: str) -> str:
        for number in range(1, self._config.max_rounds + 1):
            self._tell(f"turn {number}")
            turn = await self._turn(question, is_last=False)
            if turn.decision == "final" and turn.answer and self._exchanges:
                return turn.answer  # never before the document was asked at all
            try:
                await self._ask_local(text, turn.message or question)
            except LegError:
                raise EndedError(Result.LOCAL_UNAVAILABLE) from None
        turn = await self._turn(question, is_last=True)
        if turn.decision == "final" and turn.answer:
            return turn.answer
        raise EndedError(Result.ROUND_LIMIT, answer=turn.answer)

    async def _turn(self, question: str, *, is_last: bool) -> Turn:
        try:
            return await self._remote.ask_for(
                read_turn,
                prompts.chat_remote(question, self._shown(), is_last=is_last),
                max_tokens=self._max_answer_tokens,
                schema=TURN_SCHEMA,
                is_last=is_last,
            )
        except ReplyProblemError:
            raise EndedError(Result.PLAN_REFUSED) from None
        except LegError:
            if is_last:
                raise
            raise EndedError(Result.REMOTE_UNAVAILABLE) from None

    async def _ask_local(self, text: str, message: str) -> None:
        messages = prompts.chat_local(text, self._exchanges, message)
        reply = await self._local(messages, max_tokens=self._config.job_answer_tokens)
        self._exchanges.append((message, reply.text.strip()))

    def _shown(self) -> list[Exchange]:
        """Return the exchanges as the remote sees them, the older ones left out if too long."""
        room = self._remote.bytes_of(self._config.findings_tokens)
        shown: list[Exchange] = []
        for asked, said in reversed(self._exchanges):
            room -= len(asked.encode()) + len(said.encode())
            if room < 0:
                break
            shown.insert(0, (asked, said))
        return shown

    async def _close(self, question: str, text: str, end: EndedError, ends_at: float) -> Outcome:
        if end.answer:
            return self._outcome(end.answer, end.result)
        try:
            async with asyncio.timeout_at(ends_at):
                return await self._last_word(question, text, end)
        except (TimeoutError, EndedError):
            pass  # what was said is the answer, and it says so
        except LegError:
            if not self._exchanges:
                raise
        said = "\n\n".join(f"{asked}\n{answer}" for asked, answer in self._exchanges)
        return self._outcome(as_it_is(said), end.result, is_synthesised=False)

    async def _last_word(self, question: str, text: str, end: EndedError) -> Outcome:
        if end.result in (Result.REMOTE_UNAVAILABLE, Result.PLAN_REFUSED):
            if not self._exchanges:
                await self._ask_local(text, question)
            raise end
        turn = await self._turn(question, is_last=True)
        if not turn.answer:
            raise end
        return self._outcome(turn.answer, end.result)

    def _outcome(self, answer: str, result: Result, *, is_synthesised: bool = True) -> Outcome:
        num = len(self._exchanges)
        return Outcome(answer, result, is_synthesised, num_rounds=num, num_jobs=num)


def _with_title(document: Document) -> str:
    return f"{document.title}\n{document.text}" if document.title else document.text
