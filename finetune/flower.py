"""The edge to Flower: our values to messages and back, the ClientApp and the ServerApp.

Aggregation, checks and training know nothing of Flower; every other module does without it, but for
the in-process Grid.
"""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from numpy.typing import NDArray

from finetune.errors import PayloadError, RoundError
from finetune.rounds import Replies
from finetune.sparsity.client import SparseClients
from finetune.sparsity.parcel import Parcel
from finetune.sparsity.server import SparseServer
from finetune.traffic import Content, Traffic
from finetune.updates import Evaluation, Refusal, Tensors, Update

CLIENT_KEY = "client"
"""Key of the client's name in a node's configuration and in replies."""

_PAYLOAD = "sparse"
_PAYLOAD_TYPE = "motley.wire"
"""Name and serialisation of the one array of a sparse message; `finetune/wire` has its form."""


class Trainer(Protocol):
    """One client's model and text."""

    num_examples: int
    """Training sequences it holds."""

    def train(self, tensors: Tensors, *, round_number: int) -> tuple[Tensors, float]:
        """Return the adapter after local training from `tensors`, and the mean training loss."""

    def evaluate(self, tensors: Tensors) -> tuple[float, int]:
        """Return the held-out loss in nats a token, and the number of tokens scored."""


def make_client_app(
    trainer_of: Callable[[str], Trainer], sparse: SparseClients | None = None
) -> ClientApp:
    """Return the app that answers `train` and `evaluate` messages.

    Args:
        trainer_of: Finds the trainer by the client's name, which the node's configuration holds.
            It is asked on every message, so it should keep what is slow to make.
        sparse: Reads downloads and makes uploads, in a sparse job.
    """
    app = ClientApp()

    def train(message: Message, context: Context) -> Message:
        client = str(context.node_config[CLIENT_KEY])
        trainer = trainer_of(client)
        run = partial(trainer.train, round_number=int(message.content["config"]["round"]))
        facts: dict[str, int] = {}
        if sparse is None:
            tensors, loss = run(decode(message.content["arrays"]))
            arrays = encode(tensors)
        else:
            parcel, loss = sparse.answer(client, read_parcel(message.content), run)
            arrays, facts = pack_parcel(parcel)
        content = _reply(client, {"num-examples": trainer.num_examples, "loss": loss})
        content["config"].update(facts)
        content["arrays"] = arrays
        return Message(content, reply_to=message)

    def evaluate(message: Message, context: Context) -> Message:
        client = str(context.node_config[CLIENT_KEY])
        loss, num_tokens = trainer_of(client).evaluate(decode(message.content["arrays"]))
        return Message(_reply(client, {"num-examples": num_tokens, "loss": loss}), reply_to=message)

    app.train()(train)
    app.evaluate()(evaluate)
    return app


def make_server_app(
    serve: Callable[["GridClients"], None], sparse: SparseServer | None = None
) -> ServerApp:
    """Return the app whose main function hands the clients behind the grid to `serve`."""
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        serve(GridClients(grid, sparse))

    app.main()(main)
    return app


class GridClients:
    """The clients behind a Flower Grid, as the round loop wants them."""

    def __init__(self, grid: Grid, sparse: SparseServer | None = None) -> None:
        """Keep the grid and, in a sparse job, what makes downloads and reads uploads."""
        self._grid = grid
        self._sparse = sparse

    def train(self, tensors: Tensors, *, round_number: int) -> Replies:
        """Let every node train from `tensors`; see `rounds.Clients`."""
        messages = self._train_messages(tensors, round_number=round_number)
        download_bytes = sum(serialised_bytes(message) for message in messages)
        downloads = [self._content_of(message) for message in messages]
        updates: list[Update] = []
        refusals: list[Refusal] = []
        uploads: list[Content] = []
        for reply in self._grid.send_and_receive(messages):
            outcome = read_update(reply, self._tensors_of)
            if isinstance(outcome, Update):
                updates.append(outcome)
                uploads.append(self._content_of(reply))
            else:
                refusals.append(outcome)
        if self._sparse is not None:
            self._sparse.end_round()
        upload_bytes = sum(update.sent_bytes for update in updates)
        upload_bytes += sum(refusal.sent_bytes for refusal in refusals)
        return Replies(
            updates,
            refusals,
            download_bytes,
            download=Traffic.of(download_bytes, downloads),
            upload=Traffic.of(upload_bytes, uploads),
        )

    def evaluate(self, tensors: Tensors) -> list[Evaluation]:
        """Return the loss of `tensors` on every node's held-out text.

        Raises:
            RoundError: If a node fails.
        """
        content = _instruction(encode(tensors), {"round": 0})
        messages = [
            self._grid.create_message(content, "evaluate", node_id, group_id="0")
            for node_id in self._grid.get_node_ids()
        ]
        return [_read_evaluation(reply) for reply in self._grid.send_and_receive(messages)]

    def _train_messages(self, tensors: Tensors, *, round_number: int) -> list[Message]:
        nodes = list(self._grid.get_node_ids())
        if self._sparse is None:
            content = _instruction(encode(tensors), {"round": round_number})
            contents = dict.fromkeys(nodes, content)
        else:
            parcels = self._sparse.send(tensors, nodes, round_number=round_number)
            contents = {
                node: _instruction(*pack_parcel(parcel)) for node, parcel in parcels.items()
            }
        return [
            self._grid.create_message(content, "train", node, group_id=str(round_number))
            for node, content in contents.items()
        ]

    def _tensors_of(self, reply: Message) -> Tensors:
        if self._sparse is None:
            return decode(reply.content.array_records["arrays"])
        return self._sparse.receive(reply.metadata.src_node_id, read_parcel(reply.content))

    def _content_of(self, message: Message) -> Content:
        if self._sparse is None:
            return _dense_content(message.content["arrays"])
        return self._sparse.content_of(read_parcel(message.content))


def read_update(reply: Message, tensors_of: Callable[[Message], Tensors]) -> Update | Refusal:
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
            tensors=tensors_of(reply),
            num_examples=int(metrics["num-examples"]),
            loss=float(metrics["loss"]),
            sent_bytes=sent_bytes,
        )
    except PayloadError as error:
        return Refusal(node, f"reply cannot be decoded ({error})", sent_bytes)
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


def pack_parcel(parcel: Parcel) -> tuple[ArrayRecord, dict[str, int]]:
    """Return a sparse payload as one array of bytes, and the facts beside it."""
    array = Array("uint8", (len(parcel.data),), _PAYLOAD_TYPE, parcel.data)
    return ArrayRecord({_PAYLOAD: array}), dict(parcel.facts)


def read_parcel(content: RecordDict) -> Parcel:
    """Return the sparse payload of a message.

    Raises:
        KeyError: If the message holds no arrays at all.
        PayloadError: If they are not a sparse payload.
    """
    array = content.array_records["arrays"].get(_PAYLOAD)
    if array is None or array.stype != _PAYLOAD_TYPE:
        raise PayloadError("is missing: the other end's job is not sparse")
    facts = {name: value for name, value in content["config"].items() if isinstance(value, int)}
    return Parcel(bytes(array.data), facts)


def serialised_bytes(message: Message) -> int:
    """Return the length of the distinct objects Flower sends for this message.

    Flower stores objects by their hash, so equal arrays in one message travel once.
    """
    return sum(len(item.deflate()) for item in get_all_nested_objects(message).values())


def _instruction(arrays: ArrayRecord, facts: dict[str, int]) -> RecordDict:
    return RecordDict({"arrays": arrays, "config": ConfigRecord(facts)})


def _dense_content(record: ArrayRecord) -> Content:
    # Equal arrays of one message travel once.
    distinct = {array.data: array.numpy().nbytes for array in record.values()}
    return Content("tensors", sum(distinct.values()), index_bytes=0, is_whole=True)


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
