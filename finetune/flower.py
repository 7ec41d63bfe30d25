"""The edge to Flower: our values to messages and back, the ClientApp and the ServerApp.

Aggregation, checks and training know nothing of Flower; every other module does without it, but for
the in-process Grid.
"""

from collections.abc import Callable
from typing import Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from numpy.typing import NDArray

from finetune.errors import RoundError
from finetune.rounds import Replies
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


def make_client_app(trainer_of: Callable[[str], Trainer]) -> ClientApp:
    """Return the app that answers `train` and `evaluate` messages.

    Args:
        trainer_of: Finds the trainer by the client's name, which the node's configuration holds.
            It is asked on every message, so it should keep what is slow to make.
    """
    app = ClientApp()

    def train(message: Message, context: Context) -> Message:
        client = str(context.node_config[CLIENT_KEY])
        trainer = trainer_of(client)
        tensors, loss = trainer.train(
            decode(message.content["arrays"]), round_number=int(message.content["config"]["round"])
        )
        metrics = {"num-examples": trainer.num_examples, "loss": loss}
        content = _reply(client, metrics)
        content["arrays"] = encode(tensors)
        return Message(content, reply_to=message)

    def evaluate(message: Message, context: Context) -> Message:
        client = str(context.node_config[CLIENT_KEY])
        loss, num_tokens = trainer_of(client).evaluate(decode(message.content["arrays"]))
        return Message(_reply(client, {"num-examples": num_tokens, "loss": loss}), reply_to=message)

    app.train()(train)
    app.evaluate()(evaluate)
    return app


def make_server_app(serve: Callable[["GridClients"], None]) -> ServerApp:
    """Return the app whose main function hands the clients behind the grid to `serve`."""
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        serve(GridClients(grid))

    app.main()(main)
    return app


class GridClients:
    """The clients behind a Flower Grid, as the round loop wants them."""

    def __init__(self, grid: Grid) -> None:
        """Keep the grid."""
        self._grid = grid

    def train(self, tensors: Tensors, *, round_number: int) -> Replies:
        """Let every node train from `tensors`; see `rounds.Clients`."""
        messages = self._messages("train", tensors, round_number=round_number)
        download_bytes = sum(serialised_bytes(message) for message in messages)
        updates, refusals = [], []
        for reply in self._grid.send_and_receive(messages):
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
        return [read_evaluation(reply) for reply in self._grid.send_and_receive(messages)]

    def _messages(self, kind: str, tensors: Tensors, *, round_number: int) -> list[Message]:
        content = RecordDict(
            {"arrays": encode(tensors), "config": ConfigRecord({"round": round_number})}
        )
        return [
            self._grid.create_message(content, kind, node_id, group_id=str(round_number))
            for node_id in self._grid.get_node_ids()
        ]


def read_update(reply: Message) -> Update | Refusal:
    """Return a train reply as an update, or why it is none."""
    sent_bytes = serialised_bytes(reply)
    node = f"node {reply.metadata.src_node_id}"
    if reply.has_error():
        return Refusal(node, f"failed: {reply.error.reason}", sent_bytes)
    try:
        client = str(reply.content["config"][CLIENT_KEY])
        metrics = reply.content["metrics"]
        return Update(
            client=client,
            tensors=decode(reply.content["arrays"]),
            num_examples=int(metrics["num-examples"]),
            loss=float(metrics["loss"]),
            sent_bytes=sent_bytes,
        )
    except (KeyError, TypeError, ValueError, OverflowError, EOFError) as error:
        return Refusal(node, f"reply cannot be decoded ({error!r})", sent_bytes)


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


def _reply(client: str, metrics: dict[str, float]) -> RecordDict:
    return RecordDict(
        {"metrics": MetricRecord(metrics), "config": ConfigRecord({CLIENT_KEY: client})}
    )


def read_evaluation(reply: Message) -> Evaluation:
    """Return an evaluate reply as a loss.

    Raises:
        RoundError: If the node failed.
        KeyError, TypeError, ValueError, OverflowError: If it is no such reply.
    """
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
