"""The remote model behind its limits: tokens counted before each call, values hidden on the way."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from router.minions import prompts
from router.minions.accounting import Side
from router.minions.asking import Ask, Message, Reply, Schema
from router.minions.config import MinionsConfig
from router.minions.outcome import EndedError, Result
from router.minions.replies import ReplyProblemError
from router.minions.shield import Shield

LEAST_REPLY_TOKENS = 64
"""A call that could not answer in as many is not made."""
MARGIN = 1.1
"""On estimated prompts."""

Read = TypeVar("Read")


class RemoteDesk:
    """Asks the remote model as long as its tokens last; a part is kept for the closing call."""

    def __init__(self, ask: Ask, side: Side, config: MinionsConfig, shield: Shield) -> None:
        """Take the model, counted on `side`."""
        self._ask = ask
        self._side = side
        self._shield = shield
        self._limit_tokens = config.remote_tokens
        self._kept_tokens = config.remote_tokens // 4
        self._attempts = config.plan_attempts

    def room_tokens(self, messages: Sequence[Message] = (), *, is_last: bool) -> int:
        """Return the tokens left beside the prompt `messages`, below 0 if it is too long."""
        prompt_tokens = round(MARGIN * self._side.estimate(messages)) if messages else 0
        left = self._limit_tokens - self._side.total_tokens - prompt_tokens
        return left if is_last else left - self._kept_tokens

    def bytes_of(self, num_tokens: int) -> int:
        """Return about how many bytes of text `num_tokens` are."""
        return int(num_tokens / (MARGIN * self._side.tokens_per_byte))

    async def ask(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int,
        schema: Schema | None = None,
        is_last: bool = False,
    ) -> Reply:
        """Return the remote's reply.

        Raises:
            EndedError: If the tokens left do not suffice.
            LegError: If the remote model gives no answer.
        """
        hidden = self._shield.hide_all(messages)
        room = self.room_tokens(hidden, is_last=is_last)
        if room < LEAST_REPLY_TOKENS:
            raise EndedError(Result.TOKEN_LIMIT)
        reply = await self._ask(hidden, max_tokens=min(max_tokens, room), schema=schema)
        return Reply(self._shield.reveal(reply.text), reply.usage, reply.finish_reason)

    async def ask_for(
        self,
        read: Callable[[str], Read],
        messages: Sequence[Message],
        *,
        max_tokens: int,
        schema: Schema,
        is_last: bool = False,
    ) -> Read:
        """Return the remote's reply as `read` reads it; told what is wrong it may try again.

        Raises:
            ReplyProblemError: If no attempt could be read; the last problem.
            EndedError: If the tokens left do not suffice.
            LegError: If the remote model gives no answer.
        """
        conversation = list(messages)
        for attempt in range(self._attempts):
            reply = await self.ask(
                conversation, max_tokens=max_tokens, schema=schema, is_last=is_last
            )
            try:
                return read(reply.text)
            except ReplyProblemError as error:
                if attempt == self._attempts - 1:
                    raise
                told = f"{error}; it was cut off, write less" * (reply.finish_reason == "length")
                conversation = [*messages, *prompts.corrected(reply.text, told or str(error))]
        raise AssertionError("at least one attempt is configured")
