"""A client's side: train, then take part in the secure sum of the clipped changes.

The secrets of a session stay in this process between the messages of a round: a client whose
process ends within a round is lost to that round, and only to that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from numpy.typing import NDArray

from finetune.errors import SecureSumError
from finetune.flower import CLIENT_KEY, Trainer, train_reply
from finetune.flower_records import received
from finetune.flower_sparse import read_parcel
from finetune.judged_training import JudgedTraining
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.sparsity.client import SparseClients, Train
from finetune.trust.clip import clip
from finetune.trust.combine import flatten
from finetune.trust.secure_sum.client import SecureSumClient
from finetune.trust.secure_sum.fixed_point import FixedPoint
from finetune.updates import Tensors

SESSION_KEY, MESSAGE_KEY, WEIGHT_KEY = "session", "message", "weight"
"""Keys of a message's configuration: the session, the protocol's bytes, the client's weight."""

STAGES = ("shares", "masked", "revealed")
"""Actions of `train` after `keys`, in their order."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a client knows of a job's secure sums from the job, not from the server.

    Attributes:
        number: Its number among the clients, from 1 on.
        threshold: Fewest clients whose sum it helps to show.
        clip_norm: Longest change it sends.
        grid: How values are rounded.
        signing: The key its peers know it by.
        directory: Public signing keys of all clients by number.
    """

    number: int
    threshold: int
    clip_norm: float
    grid: FixedPoint
    signing: Ed25519PrivateKey
    directory: Mapping[int, bytes]

    def begun(self, session: bytes) -> SecureSumClient:
        """Return this client's side of a session."""
        return SecureSumClient(
            self.number,
            session=session,
            threshold=self.threshold,
            grid=self.grid,
            signing=self.signing,
            directory=self.directory,
        )


@dataclass(frozen=True, slots=True)
class _Session:
    """One client's part of the round that goes on."""

    protocol: SecureSumClient
    change_N: NDArray[np.float64]


def add_secure_sum(
    app: ClientApp,
    trainer_of: Callable[[str], Trainer],
    membership_of: Callable[[str], Membership],
    *,
    judge_every: int = 0,
    sparse: SparseClients | None = None,
    seeded: Seeded = EVERYTHING_CROSSES,
) -> None:
    """Have `app` answer the messages of rounds with secure sums.

    Args:
        app: Gets four actions of `train`.
        trainer_of: Finds the trainer by the client's name.
        membership_of: Finds what a client knows of the job's secure sums by its name.
        judge_every: As of `make_client_app`; losses are told to the server in the clear.
        sparse: Reads downloads and chooses the entries that all clients send, in a sparse job.
        seeded: What the client made of the adapter itself, and messages leave out.
    """
    sessions: dict[str, _Session] = {}

    def keys(message: Message, context: Context) -> Message:
        client = str(context.node_config[CLIENT_KEY])
        trainer, member = trainer_of(client), membership_of(client)
        config = message.content["config"]
        run = JudgedTraining(trainer, round_number=int(config["round"]), every=judge_every)
        if sparse is None:
            change_N, loss = _whole_change(received(message.content, seeded), run)
        else:
            change_N, loss = sparse.shared_change(client, read_parcel(message.content), run)
        if not np.isfinite(change_N).all():
            raise SecureSumError("training gave NaN or infinity; lower learning_rate")
        clipped_KN, _ = clip(change_N[None], most_norm=member.clip_norm)
        protocol = member.begun(bytes(config[SESSION_KEY]))
        sessions[client] = _Session(protocol, clipped_KN[0])
        content = train_reply(client, trainer, loss, run.metrics)
        content["config"][MESSAGE_KEY] = protocol.advertise()
        return Message(content, reply_to=message)

    def stage(action: str) -> Callable[[Message, Context], Message]:
        def answer(message: Message, context: Context) -> Message:
            client = str(context.node_config[CLIENT_KEY])
            if client not in sessions:
                raise SecureSumError("no secure sum goes on here; this process began within one")
            answered = _answer(sessions[client], action, message.content["config"])
            if action == STAGES[-1]:
                del sessions[client]
            config = ConfigRecord({CLIENT_KEY: client, MESSAGE_KEY: answered})
            return Message(RecordDict({"config": config}), reply_to=message)

        return answer

    app.train("keys")(keys)
    for action in STAGES:
        app.train(action)(stage(action))


def _whole_change(start: Tensors, train: Train) -> tuple[NDArray[np.float64], float]:
    """Return how training changes each entry that is trained, tensors as in `start`, and the loss."""
    tensors, loss = train(start)
    trained = [name for name in start if name in tensors]  # what is frozen is not returned
    after_N, before_N = (flatten({n: side[n] for n in trained}) for side in (tensors, start))
    return after_N - before_N, loss


def _answer(session: _Session, action: str, config: ConfigRecord) -> bytes:
    """Return the protocol's answer.

    Raises:
        SecureSumError: If the server's message is not what the protocol allows.
    """
    message = bytes(config[MESSAGE_KEY])
    if action == "shares":
        return session.protocol.share_keys(message)
    if action == "revealed":
        return session.protocol.reveal(message)
    weight = float(config[WEIGHT_KEY])
    if not 0 < weight <= 1:
        raise SecureSumError(f"the server weighs this client {weight}, not in (0, 1]")
    return session.protocol.masked_input(message, weight * session.change_N)
