"""From a request and two models to a marked outcome: which protocol runs, and on what."""

from collections.abc import Callable
from dataclasses import dataclass

from planner.threads import in_thread
from router.errors import ParameterError
from router.input_size import START_TOKENS_PER_BYTE
from router.minions.accounting import Ledger, counted
from router.minions.asking import Ask
from router.minions.chat import Chat
from router.minions.chunks import cut
from router.minions.config import MinionsConfig
from router.minions.names import VirtualName
from router.minions.outcome import EndedError, Outcome, Result
from router.minions.protocol import Minions
from router.minions.remote_desk import RemoteDesk
from router.minions.request import MinionsRequest
from router.minions.shield import Shield

PROMPT_TOKENS = 400
"""About what a job's prompt holds besides its chunk."""
SHELL_TOKENS = 256
"""About what the remote writes around an answer; a client's `max_tokens` is of the answer alone."""
MARGIN = 1.3
"""On estimated tokens, where they must fit into the local model's context."""


@dataclass(frozen=True, slots=True)
class Models:
    """The two models, as one answer asks them."""

    local: Ask
    remote: Ask
    ledger: Ledger
    """What they cost; filled in as they answer."""
    local_context_tokens: int | None = None
    """The local model's longest prompt and answer together; None: not known."""


async def solve(
    name: VirtualName,
    request: MinionsRequest,
    models: Models,
    config: MinionsConfig,
    *,
    tell: Callable[[str], None],
) -> Outcome:
    """Return the answer to a request.

    Raises:
        ParameterError: If the question alone is over the remote's tokens.
        LegError: If the models do not answer and nothing was found.
    """
    remote_side = models.ledger.remote
    desk = RemoteDesk(
        counted(models.remote, remote_side), remote_side, config, Shield(config.shield)
    )
    local = counted(models.local, models.ledger.local)
    most_tokens = config.final_answer_tokens
    if request.max_answer_tokens is not None:
        most_tokens = min(most_tokens, request.max_answer_tokens + SHELL_TOKENS)
    if request.context == "none":
        return await _remote_alone(desk, request, most_tokens)
    if name.protocol == "minion":
        chat = Chat(local, desk, config, max_answer_tokens=most_tokens, tell=tell)
        return await chat.answer(request.question, request.documents)
    max_bytes = int(chunk_tokens(models, config) / START_TOKENS_PER_BYTE)
    chunks = await in_thread(cut, request.documents, max_bytes=max_bytes)
    minions = Minions(local, desk, config, max_answer_tokens=most_tokens, tell=tell)
    return await minions.answer(request.question, request.documents, chunks)


def chunk_tokens(models: Models, config: MinionsConfig) -> int:
    """Return the size of a chunk: as configured, or what the local model's context leaves."""
    context = models.local_context_tokens
    if context is None:
        return config.chunk_tokens
    room = int((context - config.job_answer_tokens - PROMPT_TOKENS) / MARGIN)
    return max(16, min(config.chunk_tokens, room))


async def _remote_alone(desk: RemoteDesk, request: MinionsRequest, most_tokens: int) -> Outcome:
    asked = [{"role": "user", "content": request.question}]
    try:
        reply = await desk.ask(asked, max_tokens=most_tokens, is_last=True)
    except EndedError:
        raise ParameterError("messages", "is longer than minions.remote_tokens allows") from None
    return Outcome(reply.text, Result.FINISHED)


def check_length(
    name: VirtualName,
    request: MinionsRequest,
    config: MinionsConfig,
    local_context_tokens: int | None,
) -> None:
    """Refuse documents that the chat protocol cannot put into one prompt.

    Raises:
        ParameterError: If they are too long.
    """
    if name.protocol != "minion":
        return
    num_bytes = sum(
        len(document.text.encode("utf-8", "surrogatepass")) for document in request.documents
    )
    num_tokens = round(num_bytes * START_TOKENS_PER_BYTE)
    most_tokens = config.chat_document_tokens
    if local_context_tokens is not None:
        most_tokens = min(most_tokens, local_context_tokens - config.job_answer_tokens)
    if num_tokens > most_tokens:
        raise ParameterError(
            "documents",
            f"have about {num_tokens} tokens, more than the {most_tokens} that fit into one prompt; "
            "use minions/ in place of minion/",
        )
