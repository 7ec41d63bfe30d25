"""Every prompt of both protocols, as functions of what they speak of.

They are short: the remote's cost is what the protocol saves, and small models follow short prompts.
"""

from collections.abc import Sequence

from router.minions.asking import Message, system_and_user
from router.minions.chunks import Chunk, Document
from router.minions.plan import Bounds, Task

QUOTED_CHARACTERS = 2000
"""Most of a reply that its author is shown again."""

_DIRECT = (
    "You direct small models that read a long document for you; you never see it. "
    "Reply with one JSON object and nothing else."
)
_READ = (
    "You answer a task from one part of a document. Reply with one JSON object: "
    '{"explanation": "one sentence", "citation": "exact words" or null, "answer": "text" or null}. '
    "answer is null if this part does not hold it. Never guess."
)
_JUDGE = (
    "You answer a question from what small models found in a document you do not see. Reply with "
    'one JSON object: {"explanation": "short reasoning", "decision": "final" or "need_more", '
    '"answer": "text" or null, "feedback": "what is missing" or null, '
    '"scratchpad": "notes to read again" or null}.'
)
_CONVERSE = (
    "You answer a question by asking a small model that has the document; you do not see it. Reply "
    'with one JSON object: {"explanation": "short reasoning", "decision": "final" or "need_more", '
    '"message": "your next message to it" or null, "answer": "text" or null}.'
)
_LAST = 'This is the last chance: decision must be "final", with the best answer you can give.'


def advise(question: str) -> tuple[Message, ...]:
    """Ask the remote what to look for."""
    return system_and_user(
        "You direct small models that read a long document for you; you never see it.",
        f"Question:\n{question}\n\nSay in at most three plain sentences, without a list, which "
        "information in the document is needed to answer it.",
    )


def describe(documents: Sequence[Document], num_chunks: int, chunk_tokens: int) -> str:
    """Return what the remote is told of the documents."""
    titles = [document.title for document in documents if document.title]
    told = f"{len(documents)} document(s), {num_chunks} chunks of up to {chunk_tokens} tokens"
    return f"{told}: {'; '.join(titles)}" if titles else told


def decompose(question: str, description: str, bounds: Bounds, advice: str) -> tuple[Message, ...]:
    """Ask the remote for the first round's tasks."""
    return system_and_user(
        _DIRECT,
        f"Question:\n{question}\n\n{_given('Look for', advice)}The document: {description}, numbered "
        f"from 1.\n\n{_task_rules(bounds)}",
    )


def decompose_again(
    question: str, description: str, bounds: Bounds, *, earlier: Sequence[Task], state: str
) -> tuple[Message, ...]:
    """Ask the remote for a later round's tasks.

    Args:
        question: The user's.
        description: Of the documents.
        bounds: Of the plan.
        earlier: Every task so far.
        state: The remote's own feedback and scratchpad.
    """
    tasks = "\n".join(f"{number}. {task.task[:300]}" for number, task in enumerate(earlier, 1))
    return system_and_user(
        _DIRECT,
        f"Question:\n{question}\n\nThe document: {description}, numbered from 1.\n\nTasks so far:\n"
        f'{tasks}\n\n{state}Write tasks for what is missing; a task may have "earlier": [1] to be '
        f"shown the findings of task 1.\n\n{_task_rules(bounds)}",
    )


def corrected(reply: str, problem: str) -> tuple[Message, ...]:
    """Show a model the beginning of its reply, and tell it what is wrong with it."""
    told = f"That cannot be used: {problem}. Reply with the JSON object alone."
    return (
        {"role": "assistant", "content": reply[:QUOTED_CHARACTERS]},
        {"role": "user", "content": told},
    )


def job(task: Task, chunk: Chunk, *, known: str) -> tuple[Message, ...]:
    """Ask the local model; what jobs share comes first, for the prefix cache."""
    return system_and_user(
        _READ,
        f"Part {chunk.chunk_id} of the document:\n{chunk.text}\n\n{_given('Known so far', known)}"
        f"{_given('Hint', task.advice)}Task: {task.task}",
    )


def synthesise(
    question: str, findings: str, *, scratchpad: str, is_last: bool
) -> tuple[Message, ...]:
    """Ask the remote for its verdict."""
    closing = _LAST if is_last else 'Say "need_more" if something needed is missing.'
    return system_and_user(
        _JUDGE,
        f"Question:\n{question}\n\n{_given('Your notes', scratchpad)}Findings:\n"
        f"{findings or 'none'}\n\n{closing}",
    )


def chat_remote(
    question: str, exchanges: Sequence[tuple[str, str]], *, is_last: bool
) -> tuple[Message, ...]:
    """Ask the remote for its turn; `exchanges` are its messages and the local model's answers."""
    told = "".join(f"You asked:\n{asked}\nIt answered:\n{said}\n\n" for asked, said in exchanges)
    closing = _LAST if is_last else ""
    return system_and_user(_CONVERSE, f"Question:\n{question}\n\n{told}{closing}".rstrip())


def chat_local(document: str, exchanges: Sequence[tuple[str, str]], asked: str) -> list[Message]:
    """Ask the local model, which has the document in its system prompt."""
    system = f"Answer from this document, with exact words where you can:\n\n{document}"
    messages: list[Message] = [{"role": "system", "content": system}]
    for question, answer in exchanges:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return [*messages, {"role": "user", "content": asked}]


def _task_rules(bounds: Bounds) -> str:
    return (
        f"Write 1 to {bounds.max_tasks} tasks. Each is asked of each of its chunks by itself, of a "
        "model that sees that chunk and nothing else: atomic, self-contained. At most "
        f"{bounds.max_jobs} tasks times chunks.\n"
        '{"tasks": [{"task": "...", "advice": "...", "chunks": {"kind": "all"}}], "fold": "by_task"}\n'
        'chunks: {"kind": "all"} or {"kind": "range", "first": 1, "last": 2} or '
        '{"kind": "retrieve", "query": "words", "top_k": 3}. fold: by_task or by_chunk.'
    )


def _given(name: str, text: str) -> str:
    return f"{name}:\n{text}\n\n" if text else ""
