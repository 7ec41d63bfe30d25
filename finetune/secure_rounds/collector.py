"""The server's side: a round's messages, and the one update that the sum makes."""

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from finetune.errors import SecureSumError
from finetune.factors import is_down
from finetune.flower import GridClients, read_update
from finetune.flower_records import serialised_bytes
from finetune.flower_sparse import SparseExchange
from finetune.rounds import Replies
from finetune.secure_rounds.member import MESSAGE_KEY, SESSION_KEY, STAGES, WEIGHT_KEY
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.sparsity.shared_mask import SharedMask
from finetune.trust.checks import Checks
from finetune.trust.combine import capped, flatten, moved
from finetune.trust.secure_sum.fixed_point import FixedPoint
from finetune.trust.secure_sum.messages import SESSION_BYTES
from finetune.trust.secure_sum.server import SecureSumServer
from finetune.updates import MOST_EXAMPLES, Refusal, Tensors, Update

logger = logging.getLogger(__name__)

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SecureJob:
    """What the server knows of a job's secure sums.

    Attributes:
        numbers: Each client's number, from 1 on.
        threshold: Fewest clients whose sum is shown.
        grid: How values are rounded.
        checks: What each client must declare.
        noise: Makes the noise of so many entries that is added to a sum of unweighted changes;
            None without privacy, where changes are weighted by examples.
        most_examples: Most that a client is believed to have; None for no limit.
        mask: The entries that all clients send; None is all that they train.
        is_down_frozen: Whether they train no A.
    """

    numbers: Mapping[str, int]
    threshold: int
    grid: FixedPoint
    checks: Checks
    noise: Callable[[int], Vector] | None = None
    most_examples: int | None = None
    mask: SharedMask | None = None
    is_down_frozen: bool = False

    def num_entries(self, start: Tensors, *, round_number: int) -> int:
        """Return how many entries each client's vector has."""
        if self.mask is not None:
            return self.mask.num_entries(start, round_number=round_number)
        return sum(tensor.size for tensor in self._trained(start).values())

    def moved(self, start: Tensors, step_N: Vector, *, round_number: int) -> Tensors:
        """Return the adapter after a step of those entries."""
        if self.mask is not None:
            step_N = flatten(self.mask.spread(step_N, start, round_number=round_number))
            return moved(start, step_N)
        return {**start, **moved(self._trained(start), step_N)}

    def _trained(self, start: Tensors) -> Tensors:
        return {n: t for n, t in start.items() if not (self.is_down_frozen and is_down(n))}


@dataclass(slots=True)
class _Round:
    """What comes together in a round."""

    protocol: SecureSumServer
    members: dict[int, Update] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    download_bytes: int = 0
    upload_bytes: int = 0

    def refuse(self, update: Update, reason: str) -> None:
        """Count a client out."""
        self.refusals.append(Refusal(update.client, reason, 0, update.node_id))


class SecureClients(GridClients):
    """Clients whose updates come as a sum; see `rounds.Clients`."""

    def __init__(
        self,
        grid: Grid,
        job: SecureJob,
        exchange: SparseExchange | None = None,
        *,
        seeded: Seeded = EVERYTHING_CROSSES,
    ) -> None:
        """Keep the grid, what the job says, and how adapters go down; see `GridClients`."""
        super().__init__(grid, exchange, seeded=seeded)
        self._job = job
        self._sparse = exchange

    def train(self, tensors: Tensors, *, round_number: int) -> Replies:
        """Let every client train from `tensors`; the one update is their weighted mean.

        Raises:
            SecureSumError: If fewer clients than the threshold stay to the end.
        """
        job, session = self._job, secrets.token_bytes(SESSION_BYTES)
        protocol = SecureSumServer(
            job.numbers.values(),
            session=session,
            threshold=job.threshold,
            grid=job.grid,
            num_entries=job.num_entries(tensors, round_number=round_number),
        )
        state = _Round(protocol)
        contents = self._exchange.downloads(
            tensors, self._grid.get_node_ids(), round_number=round_number
        )
        downloads = [self._exchange.content(content) for content in contents.values()]
        messages = self._messages("train.keys", contents, round_number=round_number)
        for message in messages:
            message.content["config"][SESSION_KEY] = session
        for reply in self._sent(state, messages):
            self._enrol(state, reply, start=tensors, version=round_number)
        for action in STAGES:
            replies = self._sent(state, self._stage_messages(state, action, round_number))
            for reply in replies:
                self._take(state, action, reply)
        protocol.advance()
        self._exchange.end_round()
        update = self._mean(state, start=tensors, version=round_number)
        # The update's bytes are the round's, refused clients' included.
        return Replies.of(
            [update], state.refusals, state.download_bytes, downloads=downloads, uploads=[]
        )

    def _sent(self, state: _Round, messages: list[Message]) -> list[Message]:
        state.download_bytes += sum(serialised_bytes(message) for message in messages)
        replies = self._replies(messages)
        state.upload_bytes += sum(serialised_bytes(reply) for reply in replies)
        return replies

    def _enrol(self, state: _Round, reply: Message, *, start: Tensors, version: int) -> None:
        """Take a client in by its first reply, unless what it declares is wrong."""
        outcome = read_update(reply, lambda _: start)
        if isinstance(outcome, Refusal):
            # Its bytes are in the round's.
            state.refusals.append(Refusal(outcome.client, outcome.reason, 0, outcome.node_id))
            return
        if self._sparse is not None:
            self._sparse.answered(outcome.node_id)
        number = self._job.numbers.get(outcome.client)
        if number is None:
            state.refuse(outcome, "is no client of the job; give the name the job knows")
            return
        reason = self._job.checks.reason(outcome, like=start, version=version)
        reason = reason or _received(state.protocol, number, reply)
        if reason is not None:
            state.refuse(outcome, reason)
        else:
            (state.members[number],) = capped([outcome], most_examples=self._job.most_examples)

    def _take(self, state: _Round, action: str, reply: Message) -> None:
        """Take a later reply; a client that fails is lost, to the sum if its values did not come."""
        node_id = reply.metadata.src_node_id
        number, member = next(
            (number, member)
            for number, member in state.members.items()
            if member.node_id == node_id
        )
        if reply.has_error():
            reason: str | None = f"failed: {reply.error.reason}"
        else:
            reason = _received(state.protocol, number, reply)
        if reason is not None and action != STAGES[-1]:
            state.refuse(member, reason)
        elif reason is not None:
            logger.warning("secure sum lost shares client=%s reason=%r", member.client, reason)

    def _stage_messages(self, state: _Round, action: str, round_number: int) -> list[Message]:
        most = max((member.num_examples for member in state.members.values()), default=1)
        messages = []
        for number, body in state.protocol.advance().items():
            member = state.members[number]
            config = ConfigRecord({"round": round_number, MESSAGE_KEY: body})
            if action == "masked":
                is_private = self._job.noise is not None
                config[WEIGHT_KEY] = 1.0 if is_private else member.num_examples / most
            messages.append(
                self._grid.create_message(
                    RecordDict({"config": config}),
                    f"train.{action}",
                    member.node_id,
                    group_id=str(round_number),
                )
            )
        return messages

    def _mean(self, state: _Round, *, start: Tensors, version: int) -> Update:
        total_N, survivors = state.protocol.total()
        members = [state.members[number] for number in sorted(survivors)]
        examples = np.array([member.num_examples for member in members], np.float64)
        if self._job.noise is not None:
            step_N = (total_N + self._job.noise(len(total_N))) / len(self._job.numbers)
        else:
            most = max(member.num_examples for member in state.members.values())
            step_N = total_N / (examples.sum() / most)
        names = [member.client for member in members]
        logger.info("secure sum round=%d clients=%s num=%d", version, names, len(names))
        return Update(
            client=f"secure sum of {len(members)}",
            tensors=self._job.moved(start, step_N, round_number=version),
            num_examples=int(min(examples.sum(), MOST_EXAMPLES)),
            loss=float(np.average([member.loss for member in members], weights=examples)),
            sent_bytes=state.upload_bytes,
            identity=self._job.checks.identity,
            version=version,
            is_sum=True,
            held_out=tuple(one for member in members for one in member.held_out),
        )


def _received(protocol: SecureSumServer, number: int, reply: Message) -> str | None:
    """Hand a reply's message on; return why it was not taken, or None."""
    message = reply.content["config"].get(MESSAGE_KEY)
    if not isinstance(message, bytes):
        return "sent no message of the secure sum"
    try:
        protocol.receive(number, message)
    except SecureSumError as error:
        return str(error)
    return None
