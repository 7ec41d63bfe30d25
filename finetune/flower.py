"""The edge to Flower: our values to messages and back, the ClientApp and the ServerApp.

Aggregation, checks and training know nothing of Flower; every other module does without it, but for
the in-process Grid.
"""

import io
import math
import tokenize
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from numpy.typing import NDArray

from finetune.declarations import declared_identity, declared_version, declaring, with_reason
from finetune.errors import PayloadError, RoundError
from finetune.flower_sparse import pack_parcel, read_parcel
from finetune.rounds import Replies
from finetune.sparsity.client import SparseClients
from finetune.traffic import Content
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
    sparse: SparseClients | None = None,
    identity_of: Callable[[str], BaseIdentity] | None = None,
    gives_updates: bool = True,
) -> ClientApp:
    """Return the app that answers `train` and `evaluate` messages.

    Args:
        trainer_of: Finds the trainer by the client's name, which the node's configuration holds.
            It is asked on every message, so it should keep what is slow to make.
        sparse: Reads downloads and makes uploads, in a sparse job.
        identity_of: Tells which base model the client loaded, for it to declare; None declares
            nothing, which a server that asks for a base model refuses.
        gives_updates: Whether the server may have single updates; it may not where it shall see
            their sum only.
    """
    app = ClientApp(mods=[declaring(_client_of, identity_of)])

    def train(message: Message, context: Context) -> Message:
        client = _client_of(context)
        trainer = trainer_of(client)
        run = partial(trainer.train, round_number=int(message.content["config"]["round"]))
        if sparse is None:
            tensors, loss = run(decode(message.content["arrays"]))
        else:
            parcel, loss = sparse.answer(client, read_parcel(message.content), run)
        content = train_reply(client, trainer, loss)
        if sparse is None:
            content["arrays"] = encode(tensors)
        else:
            pack_parcel(parcel, content)
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


class Exchange(Protocol):
    """How an adapter travels: whole, or its largest entries."""

    def downloads(
        self, tensors: Tensors, nodes: Iterable[int], *, round_number: int
    ) -> Mapping[int, RecordDict]:
        """Begin a round: return what each node is sent, the round's number in its `config`."""

    def update(self, reply: Message) -> Tensors:
        """Return a reply as a whole adapter; raise what `read_update` catches if it is none."""

    def content(self, record: RecordDict) -> Content:
        """Return what a message of `downloads`, or one that `update` has read, is made of."""

    def end_round(self) -> None:
        """Take note that no further reply counts."""


class DenseExchange:
    """All tensors, both ways."""

    def downloads(
        self, tensors: Tensors, nodes: Iterable[int], *, round_number: int
    ) -> dict[int, RecordDict]:
        """Return the same content for each node."""
        return dict.fromkeys(nodes, _dense_record(tensors, round_number=round_number))

    def update(self, reply: Message) -> Tensors:
        """Return the reply's tensors."""
        return decode(reply.content.array_records["arrays"])

    def content(self, record: RecordDict) -> Content:
        """Return the bytes of the values; equal arrays of one message travel once."""
        arrays = record.array_records["arrays"].values()
        distinct = {array.data: _values(array).nbytes for array in arrays}
        return Content("tensors", sum(distinct.values()), index_bytes=0, is_whole=True)

    def end_round(self) -> None:
        """Nothing is remembered."""


class GridClients:
    """The clients behind a Flower Grid, as the round loop wants them."""

    def __init__(self, grid: Grid, exchange: Exchange | None = None) -> None:
        """Keep the grid, and how adapters travel: by default as they are."""
        self._grid = grid
        self._exchange = exchange or DenseExchange()
        self._untold: dict[int, str] = {}

    def tell(self, refusals: Sequence[Refusal]) -> None:
        """Put each reason into messages to its node until it answers; see `rounds.Clients`."""
        self._untold.update({refusal.node_id: refusal.reason for refusal in refusals})

    def train(self, tensors: Tensors, *, round_number: int) -> Replies:
        """Let every node train from `tensors`; see `rounds.Clients`."""
        contents = self._exchange.downloads(
            tensors, self._grid.get_node_ids(), round_number=round_number
        )
        messages = self._messages("train", contents, round_number=round_number)
        download_bytes = sum(serialised_bytes(message) for message in messages)
        downloads = [self._exchange.content(content) for content in contents.values()]
        updates: list[Update] = []
        refusals: list[Refusal] = []
        uploads: list[Content] = []
        for reply in self._replies(messages):
            outcome = read_update(reply, self._exchange.update)
            if isinstance(outcome, Update):
                updates.append(outcome)
                uploads.append(self._exchange.content(reply.content))
            else:
                refusals.append(outcome)
        self._exchange.end_round()
        return Replies.of(updates, refusals, download_bytes, downloads=downloads, uploads=uploads)

    def evaluate(self, tensors: Tensors) -> list[Evaluation]:
        """Return the loss of `tensors` on every node's held-out text.

        Raises:
            RoundError: If a node fails.
        """
        messages = self._messages("evaluate", self._whole(tensors, round_number=0), round_number=0)
        return [read_evaluation(reply) for reply in self._replies(messages)]

    def _replies(self, messages: list[Message]) -> list[Message]:
        replies: list[Message] = list(self._grid.send_and_receive(messages))
        for reply in replies:
            if not reply.has_error():  # the node got the message, and the reason in it
                self._untold.pop(reply.metadata.src_node_id, None)
        return replies

    def _whole(self, tensors: Tensors, *, round_number: int) -> dict[int, RecordDict]:
        return dict.fromkeys(
            self._grid.get_node_ids(), _dense_record(tensors, round_number=round_number)
        )

    def _messages(
        self, kind: str, contents: Mapping[int, RecordDict], *, round_number: int
    ) -> list[Message]:
        return [
            self._grid.create_message(
                with_reason(content, self._untold.get(node_id)),
                kind,
                node_id,
                group_id=str(round_number),
            )
            for node_id, content in contents.items()
        ]


def read_update(reply: Message, tensors_of: Callable[[Message], Tensors]) -> Update | Refusal:
    """Return a train reply as an update, or why it is none.

    Args:
        reply: What a node sent.
        tensors_of: Finds the adapter in it; see `Exchange.update`.
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
            tensors=tensors_of(reply),
            num_examples=int(metrics["num-examples"]),
            loss=float(metrics["loss"]),
            sent_bytes=sent_bytes,
            identity=declared_identity(config),
            version=declared_version(config),
            node_id=node_id,
        )
    except PayloadError as error:
        return Refusal(node, f"reply cannot be decoded ({error})", sent_bytes, node_id)
    except (KeyError, TypeError, ValueError, OverflowError, EOFError) as error:
        return Refusal(node, f"reply cannot be decoded ({error!r})", sent_bytes, node_id)


def encode(tensors: Tensors) -> ArrayRecord:
    """Return the tensors as a Flower record."""
    return ArrayRecord({name: Array(np.asarray(tensor)) for name, tensor in tensors.items()})


def decode(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Return a Flower record as arrays, whatever their shapes and types.

    Raises:
        ValueError: If an array's bytes are not numpy's, or not as many as its header says.
    """
    return {name: _values(array) for name, array in record.items()}


def _values(array: Array) -> NDArray[Any]:
    """Return an array's values; numpy's own reader would allocate whatever a header claims."""
    stream = io.BytesIO(array.data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("an array is not in numpy's format 1.0")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (tokenize.TokenError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"an array's header is no header ({type(error).__name__})") from None
    body = array.data[stream.tell() :]
    if dtype.hasobject or len(body) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape}, type {dtype} comes with {len(body)} bytes")
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return np.frombuffer(body, dtype).reshape(shape, order=order).copy()


def serialised_bytes(message: Message) -> int:
    """Return the length of the distinct objects Flower sends for this message.

    Flower stores objects by their hash, so equal arrays in one message travel once.
    """
    return sum(len(item.deflate()) for item in get_all_nested_objects(message).values())


def _dense_record(tensors: Tensors, *, round_number: int) -> RecordDict:
    return RecordDict({"arrays": encode(tensors), "config": ConfigRecord({"round": round_number})})


def _client_of(context: Context) -> str:
    return str(context.node_config[CLIENT_KEY])


def train_reply(client: str, trainer: Trainer, loss: float) -> RecordDict:
    """Return what every train reply says beside the adapter."""
    return _reply(client, {"num-examples": trainer.num_examples, "loss": loss})


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
