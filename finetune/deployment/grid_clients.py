"""The clients behind a SuperLink, as the round loop wants them: deadlines, names, and bad news.

A node is known by the key it was registered with, so its answers count for that client and no
other. A client that is away, silent or refused never stops a round; what was refused is told to it
with the next message.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import httpx
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from finetune.declarations import with_reason
from finetune.errors import FinetuneError, RoundError
from finetune.flower import read_evaluation, read_update
from finetune.flower_records import DenseExchange, Exchange, judge_record, serialised_bytes
from finetune.held_out import Judgement, problem
from finetune.patience import Patience
from finetune.rounds import Replies
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.traffic import Content
from finetune.updates import Evaluation, Refusal, Tensors, Update, one_line

logger = logging.getLogger(__name__)

BASE_KEY = "base-weights-sha256"
"""Key in a message's configuration: digest of the base model that the adapter is for."""

END_KIND = "query.end"
"""Type of the message that tells a client that the job is done."""

NO_NODE = 0
"""In a refusal of a client that cannot be told it, since it was not there."""

_POLL_SECONDS = 0.5
_END_SECONDS = 15.0
"""How long the server waits for clients to learn that the job is done."""


class DeployedClients:
    """The clients of a run on a SuperLink; see `rounds.Clients`."""

    def __init__(
        self,
        grid: Grid,
        names: Mapping[int, str] | None,
        *,
        clients: Sequence[str],
        base_weights_sha256: str,
        patience: Patience,
        least_clients: int = 1,
        exchange: Exchange | None = None,
        seeded: Seeded = EVERYTHING_CROSSES,
    ) -> None:
        """Keep the grid.

        Args:
            grid: Reaches the nodes.
            names: The client of each node that may take part; None where nodes are not
                authenticated, and any may take part under the name it gives.
            clients: The job's clients; what they send is summed in this order.
            base_weights_sha256: Digest of the base model that every client must have.
            patience: How long to wait.
            least_clients: Fewest whose updates can be aggregated.
            exchange: How adapters travel to train, by default whole. It knows each client by a
                number that a server started anew gives it again; without keys by its node.
            seeded: What every client made of the adapter itself, and no message carries.
        """
        self._exchange = exchange or DenseExchange(seeded)
        self._seeded = seeded
        self._least_clients = least_clients
        self._grid = grid
        self._names = names
        self._order = {client: number for number, client in enumerate(clients)}
        self._base = base_weights_sha256
        self._patience = patience
        self._untold: dict[int, str] = {}
        self._known: set[int] = set()

    def tell(self, refusals: Sequence[Refusal]) -> None:
        """Put each reason into messages to its client until it answers; see `rounds.Clients`.

        A client is known by its name: its node has another number where the server started anew.
        """
        nodes = {name: node for node, name in (self._names or {}).items()}
        for refusal in refusals:
            if refusal.node_id != NO_NODE:
                node = nodes.get(refusal.client, refusal.node_id)
                self._untold[node] = refusal.reason

    def wait_for(self, num_clients: int) -> None:
        """Wait until so many clients are connected.

        Raises:
            RoundError: If they are not in time.
        """
        patience = self._patience
        deadline = patience.clock() + patience.connection_seconds
        while True:
            connected = self.connected()
            if len(connected) >= num_clients:
                return
            if patience.clock() >= deadline:
                raise RoundError(
                    f"{len(connected)} of {num_clients} clients connected within "
                    f"{patience.connection_seconds:g} s; start them with `motley finetune client`, "
                    "or lower deployment.min_clients"
                )
            patience.check()
            patience.sleep(_POLL_SECONDS)

    def train(self, tensors: Tensors, *, round_number: int) -> Replies:
        """Let every connected client train from `tensors`; see `rounds.Clients`.

        Raises:
            RoundError: If fewer clients are connected than a round needs, and none comes in time.
        """
        self.wait_for(self._least_clients)
        updates: list[Update] = []
        refusals: list[Refusal] = []
        uploads: list[Content] = []
        exchange = self._exchange
        numbers = {node: self._number(node) for node in self.connected()}
        contents = exchange.downloads(tensors, numbers.values(), round_number=round_number)
        messages = self._messages(
            "train",
            {node: contents[number] for node, number in numbers.items()},
            round_number=round_number,
        )
        for node, reply in self._answers(messages):
            outcome = self.judged(node, reply)
            if isinstance(outcome, Refusal):
                refusals.append(outcome)
            else:
                updates.append(outcome)
            if isinstance(reply, Message) and isinstance(outcome, Update):
                uploads.append(exchange.content(reply.content, is_upload=True))
            logger.info(
                "answer round=%d client=%s is_update=%s",
                round_number,
                outcome.client,
                isinstance(outcome, Update),
            )
        exchange.end_round()
        away = sorted(set(self._names or ()) - set(messages))
        refusals += [Refusal(self._name(node), "is not connected", 0, NO_NODE) for node in away]
        updates.sort(key=lambda update: self._order[update.client])
        sent_bytes = sum(serialised_bytes(message) for message in messages.values())
        downloads = [exchange.content(message.content) for message in messages.values()]
        return Replies.of(updates, refusals, sent_bytes, downloads=downloads, uploads=uploads)

    def evaluate(self, tensors: Tensors | None) -> Judgement:
        """Return the loss of `tensors` on the held-out text of every client that answers.

        Raises:
            RoundError: If none does.
        """
        self.wait_for(1)
        evaluations: list[Evaluation] = []
        reasons: list[str] = []
        record = judge_record(tensors, self._seeded)
        messages = self._messages("evaluate", self._to_all(record), round_number=0)
        upload_bytes = 0
        for node, reply in self._answers(messages):
            upload_bytes += 0 if isinstance(reply, str) else serialised_bytes(reply)
            try:
                evaluations.append(self._evaluation(node, reply))
            except (FinetuneError, KeyError, TypeError, ValueError, OverflowError) as error:
                reason = one_line(str(error))
                reasons.append(f"{self._name(node)}: {reason}")
                logger.warning("judgement missing client=%s reason=%r", self._name(node), reason)
        if not evaluations:
            raise RoundError(
                f"no client could judge the adapter ({'; '.join(reasons)}); mend them and run the "
                "job again"
            )
        evaluations.sort(key=lambda evaluation: self._order[evaluation.client])
        return Judgement(
            tuple(evaluations),
            download_bytes=sum(serialised_bytes(message) for message in messages.values()),
            upload_bytes=upload_bytes,
        )

    def end(self) -> None:
        """Tell every connected client that the job is done, and wait a little until it knows.

        What fails here is logged: the job is done.
        """
        content = RecordDict({"config": ConfigRecord()})
        try:
            messages = self._messages(END_KIND, self._to_all(content), round_number=0)
            for node, reply in self._answers(messages, answer_seconds=_END_SECONDS):
                if isinstance(reply, str) or reply.has_error():
                    name = self._name(node)
                    logger.warning("client may not know that the job is done client=%s", name)
        except (httpx.HTTPError, FinetuneError) as error:
            logger.warning("clients may not know that the job is done reason=%r", str(error))

    def connected(self) -> list[int]:
        """Return the nodes that are there and may take part; log who came and who left."""
        nodes = self._grid.get_node_ids()
        connected = {node for node in nodes if self._names is None or node in self._names}
        for node in sorted(connected - self._known):
            logger.info("client connected client=%s", self._name(node))
        for node in sorted(self._known - connected):
            logger.warning("client disconnected client=%s", self._name(node))
        self._known = connected
        return sorted(connected)

    def _name(self, node: int) -> str:
        return f"node {node}" if self._names is None else self._names[node]

    def _number(self, node: int) -> int:
        return node if self._names is None else self._order[self._names[node]]

    def _to_all(self, content: RecordDict) -> dict[int, RecordDict]:
        return dict.fromkeys(self.connected(), content)

    def _messages(
        self, kind: str, contents: Mapping[int, RecordDict], *, round_number: int
    ) -> dict[int, Message]:
        """Return a message to each node, with what it has not been told yet."""
        messages = {}
        for node, content in contents.items():
            config = ConfigRecord(
                {**content["config"], "round": round_number, BASE_KEY: self._base}
            )
            messages[node] = Message(
                with_reason(RecordDict({**content, "config": config}), self._untold.get(node)),
                node,
                kind,
                ttl=self._patience.answer_seconds,
                group_id=str(round_number),
            )
        return messages

    def _answers(
        self, messages: Mapping[int, Message], *, answer_seconds: float | None = None
    ) -> Iterator[tuple[int, Message | str]]:
        """Send, and give each node's reply as it comes, or why there is none.

        Replies are asked for one by one, by the ids of our own messages: what a reply says of itself
        is its sender's claim, and one that Flower cannot read must not cost the others.
        """
        patience = self._patience
        answer_seconds = answer_seconds or patience.answer_seconds
        deadline = patience.clock() + answer_seconds
        ids = self._grid.push_messages(list(messages.values()))
        # Flower gives no id for a message that the SuperLink did not take, and none at all for a
        # batch that is too large.
        pending = {mid: node for mid, node in zip(ids, messages, strict=False) if mid}
        silent = [node for node in messages if node not in pending.values()]
        while pending and patience.clock() < deadline:
            patience.check()
            for message_id, node in list(pending.items()):
                reply = self.pull(message_id)
                if reply is None:
                    continue
                del pending[message_id]
                if not isinstance(reply, str) and not reply.has_error():
                    self._untold.pop(node, None)  # it got the message, and the reason in it
                yield node, reply
            patience.sleep(_POLL_SECONDS)
        for node in [*silent, *pending.values()]:
            yield node, f"gave no answer within {answer_seconds:g} s"

    def pull(self, message_id: str) -> Message | str | None:
        """Return the reply to one message, why it cannot be read, or None if none is there."""
        try:
            return next(iter(self._grid.pull_messages([message_id])), None)
        except httpx.HTTPError:
            raise
        except Exception as error:  # noqa: BLE001 - what a client sent makes Flower raise anything
            logger.warning("reply cannot be read error=%s", type(error).__name__)
            return f"reply cannot be read ({type(error).__name__})"

    def judged(self, node: int, reply: Message | str) -> Update | Refusal:
        """Return a train reply as an update under its node's own name, or why it is none."""
        if isinstance(reply, str):
            return Refusal(self._name(node), reply, 0, node)
        outcome: Update | Refusal = read_update(
            reply, partial(self._exchange.update, self._number(node))
        )
        if isinstance(outcome, Refusal):
            return replace(outcome, client=self._name(node), node_id=node)
        problem = self.false_name(node, outcome.client)
        if problem is None:
            return replace(outcome, node_id=node)
        name = outcome.client if self._names is None else self._names[node]
        return Refusal(name, problem, outcome.sent_bytes, node)

    def _evaluation(self, node: int, reply: Message | str) -> Evaluation:
        if isinstance(reply, str):
            raise RoundError(reply)
        evaluation = read_evaluation(reply)
        false_name = self.false_name(node, evaluation.client)
        if false_name is not None:
            raise RoundError(false_name)
        reason = problem(evaluation)
        if reason is not None:
            raise RoundError(reason)
        return evaluation

    def false_name(self, node: int, name: str) -> str | None:
        """Return why a node may not bear a name, or None if it may."""
        if name not in self._order:
            return f"calls itself {name!r}, which is no client of the job"
        if self._names is None or self._names[node] == name:
            return None
        return f"calls itself {name!r}, its key is {self._names[node]!r}'s"
