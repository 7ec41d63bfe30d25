"""A scheduled job between two events, as arrays and a small document: for checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from finetune.scheduled_rounds.answers import Answer, Tally
from finetune.scheduling.documents import from_document
from finetune.strategies.fedstale import StaleMemory
from finetune.traffic import Traffic
from finetune.updates import Evaluation, Refusal, Tensors
from planner.config import StrictModel

SEPARATOR = "/"
"""Between the parts of an array's name; names of adapters, clients and tensors hold none."""


@dataclass(frozen=True, slots=True)
class ClockMemory:
    """What the virtual clock has before it.

    Attributes:
        queue: Its heap: time, kind, number, client.
        results: Number, bytes of the answer, loss, whether it counts.
        num_events: Told so far.
    """

    queue: tuple[tuple[float, int, int, str], ...]
    results: tuple[tuple[int, int, float, bool], ...]
    num_events: int


@dataclass(frozen=True, slots=True)
class ScheduleMemory:
    """All that a scheduled job depends on beside the current adapters.

    Attributes:
        scheduler: Its document; see `scheduling.documents`.
        answers: By number of their assignment: read, and not yet merged.
        starts: By number: what an assignment that is out began from, where no answer is there yet.
        stale: Each client's last change, where FedStale remembers it.
        tally: What happened since the last version.
        issued: Assignments that each client has had.
        refusals: Refusals in a row, by client.
        clock: The virtual clock's; None in real time.
    """

    scheduler: Mapping[str, Any]
    answers: Mapping[int, Answer]
    starts: Mapping[int, Tensors] = field(default_factory=dict)
    stale: Mapping[str, Tensors] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)
    issued: Mapping[str, int] = field(default_factory=dict)
    refusals: Mapping[str, int] = field(default_factory=dict)
    clock: ClockMemory | None = None


@dataclass(frozen=True, slots=True)
class AnswerHeader:
    """An `Answer` without its tensors, and the number it is kept under."""

    # A client may report NaN or infinity, which plain JSON does not hold.
    __pydantic_config__ = ConfigDict(ser_json_inf_nan="strings")

    number: int
    client: str
    num_examples: int
    loss: float
    version: int
    upload_bytes: int
    upload: Traffic
    refusal: tuple[str, str, int, int] | None
    held_out: tuple[tuple[str, float, int], ...] = ()


class ScheduleHeader(StrictModel):
    """The numbers of a `ScheduleMemory`; its arrays stand beside it, by name."""

    scheduler: dict[str, Any]
    """The scheduler's document."""
    answers: tuple[AnswerHeader, ...]
    """The tensors of each are arrays `answer/NUMBER/TENSOR`."""
    starts: tuple[int, ...]
    """Numbers of the assignments that are out; arrays `start/NUMBER/TENSOR`."""
    tally: Tally
    """What happened since the last version."""
    issued: dict[str, int]
    """Assignments that each client has had."""
    refusals: dict[str, int]
    """Refusals in a row, by client."""
    clock: ClockMemory | None
    """The virtual clock's events."""


def to_parts(memory: ScheduleMemory) -> tuple[ScheduleHeader, dict[str, NDArray[np.float32]]]:
    """Return a memory as a document and arrays by name."""
    header = ScheduleHeader(
        scheduler=dict(memory.scheduler),
        answers=tuple(_header(number, answer) for number, answer in memory.answers.items()),
        starts=tuple(memory.starts),
        tally=memory.tally,
        issued=dict(memory.issued),
        refusals=dict(memory.refusals),
        clock=memory.clock,
    )
    groups = [(f"answer/{number}", answer.tensors) for number, answer in memory.answers.items()]
    groups += [(f"start/{number}", tensors) for number, tensors in memory.starts.items()]
    groups += [("stale", StaleMemory(dict(memory.stale)).to_arrays())]
    arrays = {
        f"{group}/{name}": array for group, tensors in groups for name, array in tensors.items()
    }
    return header, arrays


def from_parts(header: ScheduleHeader, arrays: Mapping[str, NDArray[np.float32]]) -> ScheduleMemory:
    """Return the memory that `to_parts` took apart.

    Raises:
        KeyError: If an array is missing.
        ValueError: If the scheduler's document is none.
    """
    groups: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, array in arrays.items():
        kind, _, rest = name.partition(SEPARATOR)
        owner, _, tensor = rest.partition(SEPARATOR)
        groups.setdefault(f"{kind}/{owner}", {})[tensor] = array
    from_document(header.scheduler)  # a damaged one is told where the file is
    stale = {
        name.removeprefix("stale/"): array
        for name, array in arrays.items()
        if name.startswith("stale/")
    }
    return ScheduleMemory(
        scheduler=header.scheduler,
        answers={
            one.number: Answer(
                client=one.client,
                tensors=groups.get(f"answer/{one.number}", {}),
                num_examples=one.num_examples,
                loss=one.loss,
                version=one.version,
                upload_bytes=one.upload_bytes,
                upload=one.upload,
                refusal=None if one.refusal is None else Refusal(*one.refusal),
                held_out=tuple(Evaluation(*values) for values in one.held_out),
            )
            for one in header.answers
        },
        starts={number: groups[f"start/{number}"] for number in header.starts},
        stale=StaleMemory.from_arrays(stale).changes,
        tally=header.tally,
        issued=header.issued,
        refusals=header.refusals,
        clock=header.clock,
    )


def flattened(adapters: Mapping[str, Tensors]) -> dict[str, NDArray[np.float32]]:
    """Return the tensors of all adapters by one name each; that of a single adapter "" is its own."""
    return {
        f"{adapter}{SEPARATOR}{name}" if adapter else name: tensor
        for adapter, tensors in adapters.items()
        for name, tensor in tensors.items()
    }


def unflattened(tensors: Tensors) -> dict[str, dict[str, NDArray[np.float32]]]:
    """Return the adapters that `flattened` put together."""
    adapters: dict[str, dict[str, NDArray[np.float32]]] = {}
    for name, tensor in tensors.items():
        adapter, _, rest = name.rpartition(SEPARATOR)
        adapters.setdefault(adapter, {})[rest] = tensor
    return adapters


def _header(number: int, answer: Answer) -> AnswerHeader:
    refusal = answer.refusal
    return AnswerHeader(
        number=number,
        client=answer.client,
        num_examples=answer.num_examples,
        loss=answer.loss,
        version=answer.version,
        upload_bytes=answer.upload_bytes,
        upload=answer.upload,
        refusal=None
        if refusal is None
        else (refusal.client, refusal.reason, refusal.sent_bytes, refusal.node_id),
        held_out=tuple((one.client, one.loss, one.num_tokens) for one in answer.held_out),
    )
