"""The edge to Flower: our values to messages and back, the ClientApp and the ServerApp.

Aggregation, checks and training know nothing of Flower; every other module does without it, but for
the in-process Grid.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from numpy.typing import NDArray

from finetune.declarations import declared_identity, declared_version, declaring, with_reason
from finetune.errors import RoundError
from finetune.rounds import Replies
from finetune.trust.identity import BaseIdentity
from finetune.updates import Evaluation, Refusal, Tensors, Update

CLIENT_KEY = "client"
"""Key of the client's name in a node's configuration and in replies."""


class Trainer(Protocol):
    """One client's model and text."""

    num_examples: int
    """Training sequences it holds."""

    def train(self, tensors: Tensors, *, round_number: int) -> tuple[Tensors, float]:
        """Return the adapter after local training from `tensors`, and the mean training loss."""

    def evaluate(self, tensors: Tensors) -> tuple[float, int]:
        """Return the held-out loss in nats a token, and the number of tokens scored."""


def make_client_app(
    trainer_of: Callable[[str], Trainer],
    *,
    identity_of: Callable[[str], BaseIdentity] | None = None,
    gives_updates: bool = True,
) -> ClientApp:
    """Return the app that answers `train` and `evaluate` messages.

    Args:
        trainer_of: Finds the trainer by the client's name, which the node's configuration holds.
            It is asked on every message, so it should keep what is slow to make.
        identity_of: Tells which base model the client loaded, for it to declare; None declares
            nothing, which a server that asks for a base model refuses.
        gives_updates: Whether the server may have single updates; it may not where it shall see
            their sum only.
    """
    app = ClientApp(mods=[declaring(_client_of, identity_of)])

    def train(message: Message, context: Context) -> Message:
        client = _client_of(context)
        trainer = trainer_of(client)
        tensors, loss = trainer.train(
            decode(message.content["arrays"]), round_number=int(message.content["config"]["round"])
        )
        content = train_reply(client, trainer, loss)
        content["arrays"] = encode(tensors)
        return Message(content, reply_to=message)

    def evaluate(message: Message, context: Context) -> Message:
        client = _client_of(context)
        loss, num_tokens = trainer_of(client).evaluate(decode(message.content["arrays"]))
        return Message(_reply(client, {"num-examples": num_tokens, "loss": loss}), reply_to=message)

    if gives_updates:
        app.train()(train)
    app.evaluate()(evaluate)
    return app


def make_server_app(
    serve: Callable[["GridClients"], None],
    *,
    clients_of: Callable[[Grid], "GridClients"] | None = None,
) -> ServerApp:
    """Return the app whose main function hands the clients behind the grid to `serve`."""
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        serve((clients_of or GridClients)(grid))

    app.main()(main)
    return app


class GridClients:
    """The clients behind a Flower Grid, as the round loop wants them."""

    def __init__(self, grid: Grid) -> None:
        """Keep the grid."""
        self._grid = grid
        self._untold: dict[int, str] = {}

    def tell(self, refusals: Sequence[Refusal]) -> None:
        """Put each reason into messages to its node until it answers; see `rounds.Clients`."""
        self._untold.update({refusal.node_id: refusal.reason for refusal in refusals})

    def train(self, tensors: Tensors, *, round_number: int) -> Replies:
        """Let every node train from `tensors`; see `rounds.Clients`."""
        messages = self._messages("train", tensors, round_number=round_number)
        download_bytes = sum(serialised_bytes(message) for message in messages)
        updates, refusals = [], []
        for reply in self._exchange(messages):
            outcome = read_update(reply)
            if isinstance(outcome, Update):
                updates.append(outcome)
            else:
                refusals.append(outcome)
        return Replies(updates, refusals, download_bytes)

    def evaluate(self, tensors: Tensors) -> list[Evaluation]:
        """Return the loss of `tensors` on every node's held-out text.

        Raises:
            RoundError: If a node fails.
        """
        messages = self._messages("evaluate", tensors, round_number=0)
        return [_read_evaluation(reply) for reply in self._exchange(messages)]

    def _exchange(self, messages: list[Message]) -> list[Message]:
        replies: list[Message] = list(self._grid.send_and_receive(messages))
        for reply in replies:
            if not reply.has_error():  # the node got the message, and the reason in it
                self._untold.pop(reply.metadata.src_node_id, None)
        return replies

    def _messages(self, kind: str, tensors: Tensors, *, round_number: int) -> list[Message]:
        content = RecordDict(
            {"arrays": encode(tensors), "config": ConfigRecord({"round": round_number})}
        )
        return [
            self._grid.create_message(
                with_reason(content, self._untold.get(node_id)),
                kind,
                node_id,
                group_id=str(round_number),
            )
            for node_id in self._grid.get_node_ids()
        ]


def read_update(reply: Message, *, tensors: Tensors | None = None) -> Update | Refusal:
    """Return a train reply as an update, or why it is none.

    Args:
        reply: What a node sent.
        tensors: The adapter to put in where the reply holds none; None reads the reply's.
    """
    sent_bytes = serialised_bytes(reply)
    node_id = reply.metadata.src_node_id
    node = f"node {node_id}"
    if reply.has_error():
        return Refusal(node, f"failed: {reply.error.reason}", sent_bytes, node_id)
    try:
        config = reply.content["config"]
        client = str(config[CLIENT_KEY])
        metrics = reply.content["metrics"]
        return Update(
            client=client,
            tensors=decode(reply.content["arrays"]) if tensors is None else tensors,
            num_examples=int(metrics["num-examples"]),
            loss=float(metrics["loss"]),
            sent_bytes=sent_bytes,
            identity=declared_identity(config),
            version=declared_version(config),
            node_id=node_id,
        )
    except (KeyError, TypeError, ValueError, OverflowError, EOFError) as error:
        return Refusal(node, f"reply cannot be decoded ({error!r})", sent_bytes, node_id)


def encode(tensors: Tensors) -> ArrayRecord:
    """Return the tensors as a Flower record."""
    return ArrayRecord({name: Array(np.asarray(tensor)) for name, tensor in tensors.items()})


def decode(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Return a Flower record as arrays, whatever their shapes and types.

    Raises:
        TypeError, ValueError, EOFError: If an array's bytes are not numpy's.
    """
    return {name: array.numpy() for name, array in record.items()}


def serialised_bytes(message: Message) -> int:
    """Return the length of the distinct objects Flower sends for this message.

    Flower stores objects by their hash, so equal arrays in one message travel once.
    """
    return sum(len(item.deflate()) for item in get_all_nested_objects(message).values())


def _client_of(context: Context) -> str:
    return str(context.node_config[CLIENT_KEY])


def train_reply(client: str, trainer: Trainer, loss: float) -> RecordDict:
    """Return what every train reply says beside the adapter."""
    return _reply(client, {"num-examples": trainer.num_examples, "loss": loss})


def _reply(client: str, metrics: dict[str, float]) -> RecordDict:
    return RecordDict(
        {"metrics": MetricRecord(metrics), "config": ConfigRecord({CLIENT_KEY: client})}
    )


def _read_evaluation(reply: Message) -> Evaluation:
    if reply.has_error():
        raise RoundError(
            f"node {reply.metadata.src_node_id} could not judge the adapter "
            f"({reply.error.reason}); mend it and run the job again"
        )
    metrics = reply.content["metrics"]
    return Evaluation(
        client=str(reply.content["config"][CLIENT_KEY]),
        loss=float(metrics["loss"]),
        num_tokens=int(metrics["num-examples"]),
    )
