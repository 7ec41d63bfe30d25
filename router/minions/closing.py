"""The last call: an answer out of what is there, or what is there as it is."""

from router.minions import prompts
from router.minions.asking import Message
from router.minions.outcome import EndedError, Result
from router.minions.remote_desk import LEAST_REPLY_TOKENS, RemoteDesk
from router.minions.replies import VERDICT_SCHEMA, ReplyProblemError, Verdict, read_verdict

NOTHING_FOUND = "Nothing was found in the document within the limits."
UNSYNTHESISED = "What the local model found, as it is:"


def as_it_is(findings: str) -> str:
    """Return findings as an answer, where the remote model makes none of them."""
    return f"{UNSYNTHESISED}\n\n{findings}" if findings else NOTHING_FOUND


def room_bytes(
    remote: RemoteDesk,
    bare: tuple[Message, ...],
    *,
    findings_tokens: int,
    max_answer_tokens: int,
    is_last: bool,
) -> int:
    """Return how long findings may be beside the prompt `bare` and an answer.

    Raises:
        EndedError: If the remote's tokens leave no room for either.
    """
    room = remote.room_tokens(bare, is_last=is_last)
    room -= min(max_answer_tokens, room // 2)
    if room < LEAST_REPLY_TOKENS:
        raise EndedError(Result.TOKEN_LIMIT)
    return remote.bytes_of(min(findings_tokens, room))


async def verdict_on(
    remote: RemoteDesk,
    question: str,
    findings: str,
    *,
    scratchpad: str,
    max_answer_tokens: int,
    is_last: bool,
) -> Verdict:
    """Return the remote's verdict on the findings; a last one that is plain text is its answer.

    Raises:
        EndedError: If it has no verdict to give, or its tokens are used up.
        LegError: If it does not answer.
    """

    def read(text: str) -> Verdict:
        if is_last and text.strip() and "{" not in text:
            return Verdict(decision="need_more", answer=text.strip())
        return read_verdict(text)

    messages = prompts.synthesise(question, findings, scratchpad=scratchpad, is_last=is_last)
    try:
        return await remote.ask_for(
            read, messages, max_tokens=max_answer_tokens, schema=VERDICT_SCHEMA, is_last=is_last
        )
    except ReplyProblemError:
        raise EndedError(Result.PLAN_REFUSED) from None
