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
from finetune.flower import CLIENT_KEY, Trainer, decode, train_reply
from finetune.trust.clip import clip
from finetune.trust.combine import flatten
from finetune.trust.secure_sum.client import SecureSumClient
from finetune.trust.secure_sum.fixed_point import FixedPoint

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


@dataclass(frozen=True, slots=True)
class _Session:
    """One client's part of the round that goes on."""

    protocol: SecureSumClient
    change_N: NDArray[np.float64]


def add_secure_sum(
    app: ClientApp,
    trainer_of: Callable[[str], Trainer],
    membership_of: Callable[[str], Membership],
) -> None:
    """Have `app` answer the messages of rounds with secure sums.

    Args:
        app: Gets four actions of `train`.
        trainer_of: Finds the trainer by the client's name.
        membership_of: Finds what a client knows of the job's secure sums by its name.
    """
    sessions: dict[str, _Session] = {}

    def keys(message: Message, context: Context) -> Message:
        client = str(context.node_config[CLIENT_KEY])
        trainer, member = trainer_of(client), membership_of(client)
        config = message.content["config"]
        start = decode(message.content["arrays"])
        tensors, loss = trainer.train(start, round_number=int(config["round"]))
        # What is frozen is not returned.
        trained_N = flatten({name: tensors.get(name, start[name]) for name in start})
        change_N = trained_N - flatten(start)
        if not np.isfinite(change_N).all():
            raise SecureSumError("training gave NaN or infinity; lower learning_rate")
        clipped_KN, _ = clip(change_N[None], most_norm=member.clip_norm)
        protocol = SecureSumClient(
            member.number,
            session=bytes(config[SESSION_KEY]),
            threshold=member.threshold,
            grid=member.grid,
            signing=member.signing,
            directory=member.directory,
        )
        sessions[client] = _Session(protocol, clipped_KN[0])
        content = train_reply(client, trainer, loss)
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
