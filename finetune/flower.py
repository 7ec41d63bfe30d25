"""The edge to Flower: our values to messages and back, the ClientApp and the ServerApp.

Aggregation, checks and training know nothing of Flower; every other module does without it, but for
the in-process Grid.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from finetune.declarations import declared_identity, declared_version, declaring, with_reason
from finetune.errors import PayloadError, RoundError
from finetune.flower_records import (
    DenseExchange,
    Exchange,
    encode,
    judge_record,
    received,
    serialised_bytes,
)
from finetune.flower_sparse import pack_parcel, read_parcel
from finetune.held_out import Judgement
from finetune.judged_training import HELD_OUT_LOSS, HELD_OUT_TOKENS, JudgedTraining
from finetune.rounds import Replies
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.sparsity.parcel import Parcel
from finetune.traffic import Content
from finetune.trust.identity import BaseIdentity
from finetune.updates import Evaluation, Refusal, Tensors, Update

CLIENT_KEY = "client"
"""Key of the client's name in a node's configuration and in replies."""

EXAMPLES_KEY = "num-examples"
"""Key of the training sequences a client holds, in its replies."""

STEPS_KEY = "steps"
"""Key of the local steps to take, in a message of a scheduled job; else they are the job's."""

ADAPTER_KEY = "adapter"
"""Key of the adapter to train or judge, in a message of a job with several."""

ADAPTERS_KEY = "adapters"
"""Key of all of them, in the message that asks a client who it is."""


class Trainer(Protocol):
    """One client's model and text."""

    num_examples: int
    """Training sequences it holds."""

    def train(
        self, tensors: Tensors, *, round_number: int, num_steps: int | None = None
    ) -> tuple[Tensors, float]:
        """Return the adapter after local training from `tensors`, and the mean training loss.

        A number of steps is given only where it is not the job's.
        """

    def evaluate(self, tensors: Tensors | None) -> tuple[float, int]:
        """Return the held-out loss in nats a token, and the number of tokens scored.

        None judges the base model.
        """


class SparseEnd(Protocol):
    """The clients' end of a sparse job."""

    def answer(
        self, client: str, download: Parcel, train: Callable[[Tensors], tuple[Tensors, float]]
    ) -> tuple[Parcel, float]:
        """Return the update that training on a download gives, and the mean training loss."""


def make_client_app(
    trainer_of: Callable[[str], Trainer],
    *,
    sparse: SparseEnd | None = None,
    identity_of: Callable[[str], BaseIdentity] | None = None,
    gives_updates: bool = True,
    judge_every: int = 0,
    seeded: Seeded = EVERYTHING_CROSSES,
) -> ClientApp:
    """Return the app that answers `train` and `evaluate` messages.

    Args:
        trainer_of: Finds the trainer by the client's name, which the node's configuration holds,
            with a slash and the adapter's where there are several. It is asked on every message, so
            it should keep what is slow to make.
        sparse: Reads downloads and makes uploads, in a sparse job.
        identity_of: Tells which base model the client loaded, for it to declare; None declares
            nothing, which a server that asks for a base model refuses.
        gives_updates: Whether the server may have single updates; it may not where it shall see
            their sum only.
        judge_every: Rounds between two judgements of what is sent; 0 judges when asked only.
        seeded: What the client made of the adapter itself, and messages leave out.
    """
    app = ClientApp(mods=[declaring(_client_of, identity_of)])

    def train(message: Message, context: Context) -> Message:
        client, config = _client_of(context), message.content["config"]
        trainer = trainer_of(trainer_name(client, config))
        run = _judged_training(trainer, config, every=judge_every)
        if sparse is None:
            tensors, loss = run(received(message.content, seeded))
        else:
            parcel, loss = sparse.answer(client, read_parcel(message.content), run)
        content = train_reply(client, trainer, loss, run.metrics)
        if sparse is None:
            content["arrays"] = encode(tensors)
        else:
            pack_parcel(parcel, content)
        return Message(content, reply_to=message)

    def evaluate(message: Message, context: Context) -> Message:
        client = _client_of(context)
        arrays = message.content.array_records.get("arrays")
        tensors = None if arrays is None else received(message.content, seeded)
        trainer = trainer_of(trainer_name(client, message.content["config"]))
        loss, num_tokens = trainer.evaluate(tensors)
        return Message(_reply(client, {"num-examples": num_tokens, "loss": loss}), reply_to=message)

    def hello(message: Message, context: Context) -> Message:
        client, adapters = _client_of(context), message.content["config"].get(ADAPTERS_KEY, [""])
        names = [trainer_name(client, {ADAPTER_KEY: adapter}) for adapter in adapters]
        num_examples = [trainer_of(name).num_examples for name in names]
        return Message(_reply(client, {EXAMPLES_KEY: num_examples}), reply_to=message)

    if gives_updates:
        app.train()(train)
        app.query()(hello)
    app.evaluate()(evaluate)
    return app


def _judged_training(trainer: Trainer, config: ConfigRecord, *, every: int) -> JudgedTraining:
    return JudgedTraining(
        trainer,
        round_number=int(config["round"]),
        every=every,
        num_steps=int(config[STEPS_KEY]) if STEPS_KEY in config else None,
    )


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

    def __init__(
        self,
        grid: Grid,
        exchange: Exchange | None = None,
        *,
        seeded: Seeded = EVERYTHING_CROSSES,
    ) -> None:
        """Keep the grid, how adapters travel, by default as they are, and what all nodes have."""
        self._grid = grid
        self._seeded = seeded
        self._exchange = exchange or DenseExchange(seeded)
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
            node = reply.metadata.src_node_id
            outcome = read_update(reply, partial(self._exchange.update, node))
            if isinstance(outcome, Update):
                updates.append(outcome)
                uploads.append(self._exchange.content(reply.content, is_upload=True))
            else:
                refusals.append(outcome)
        self._exchange.end_round()
        return Replies.of(updates, refusals, download_bytes, downloads=downloads, uploads=uploads)

    def evaluate(self, tensors: Tensors | None) -> Judgement:
        """Return the loss of `tensors` on every node's held-out text; see `rounds.Clients`.

        Raises:
            RoundError: If a node fails.
        """
        contents = dict.fromkeys(self._grid.get_node_ids(), judge_record(tensors, self._seeded))
        messages = self._messages("evaluate", contents, round_number=0)
        replies = self._replies(messages)
        return Judgement(
            tuple(read_evaluation(reply) for reply in replies),
            download_bytes=sum(serialised_bytes(message) for message in messages),
            upload_bytes=sum(serialised_bytes(reply) for reply in replies),
        )

    def _replies(self, messages: list[Message]) -> list[Message]:
        replies: list[Message] = list(self._grid.send_and_receive(messages))
        for reply in replies:
            if not reply.has_error():  # the node got the message, and the reason in it
                self._untold.pop(reply.metadata.src_node_id, None)
        return replies

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
            held_out=_held_out(client, metrics),
        )
    except PayloadError as error:
        return Refusal(node, f"reply cannot be decoded ({error})", sent_bytes, node_id)
    except (KeyError, TypeError, ValueError, OverflowError, EOFError) as error:
        return Refusal(node, f"reply cannot be decoded ({error!r})", sent_bytes, node_id)


def _held_out(client: str, metrics: MetricRecord) -> tuple[Evaluation, ...]:
    """Return what a train reply says of the adapter that was sent, whatever that is worth."""
    if HELD_OUT_LOSS not in metrics:
        return ()
    try:
        loss, num_tokens = float(metrics[HELD_OUT_LOSS]), int(metrics[HELD_OUT_TOKENS])
    except (KeyError, TypeError, ValueError, OverflowError):
        return (Evaluation(client, math.nan, 0),)  # refused as a number, and the update is not
    return (Evaluation(client, loss, num_tokens),)


def trainer_name(client: str, config: Mapping[str, Any]) -> str:
    """Return the name of the trainer that a message is for; names hold no slash."""
    adapter = config.get(ADAPTER_KEY, "")
    return f"{client}/{adapter}" if adapter else client


def _client_of(context: Context) -> str:
    return str(context.node_config[CLIENT_KEY])


def train_reply(
    client: str, trainer: Trainer, loss: float, judged: Mapping[str, float]
) -> RecordDict:
    """Return what every train reply says beside the adapter."""
    return _reply(client, {"num-examples": trainer.num_examples, "loss": loss, **judged})


def _reply(client: str, metrics: dict[str, Any]) -> RecordDict:
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
