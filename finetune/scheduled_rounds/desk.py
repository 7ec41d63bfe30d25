"""Assignments as Flower's messages, and replies as answers."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from finetune.declarations import with_reason
from finetune.flower import (
    ADAPTER_KEY,
    ADAPTERS_KEY,
    CLIENT_KEY,
    EXAMPLES_KEY,
    STEPS_KEY,
    read_update,
)
from finetune.flower_records import Exchange, serialised_bytes
from finetune.scheduled_rounds.answers import Answer
from finetune.scheduled_rounds.merger import Merger
from finetune.scheduling.decisions import Assignment, Client
from finetune.traffic import Content, Traffic
from finetune.updates import MOST_EXAMPLES, Refusal, Tensors, Update

logger = logging.getLogger(__name__)


class Workers(Protocol):
    """Nodes that answer messages, wherever they run."""

    def connected(self) -> Sequence[int]:
        """Return the nodes that are there and may take part."""

    def post(self, kind: str, node: int, content: RecordDict) -> tuple[str | None, int]:
        """Send a message; return its id, None where it was not taken, and its serialised length."""

    def pull(self, message_id: str) -> Message | str | None:
        """Return the reply, why it cannot be read, or None if none is there."""

    def judged(self, node: int, reply: Message | str) -> Update | Refusal:
        """Return a reply to `train` as an update, or why it is none."""

    def name_of(self, node: int, claimed: str) -> str:
        """Return the client a node is; raise ValueError if it may not be whom it claims to be."""


class InProcessWorkers:
    """Nodes of a grid whose replies are there as soon as a message was pushed."""

    def __init__(self, grid: Grid, exchange: Exchange) -> None:
        """Keep the grid, and how adapters travel."""
        self._grid = grid
        self._exchange = exchange

    def connected(self) -> list[int]:
        """Return all nodes."""
        return list(self._grid.get_node_ids())

    def post(self, kind: str, node: int, content: RecordDict) -> tuple[str | None, int]:
        """Let the node answer."""
        message = self._grid.create_message(content, kind, node, group_id="")
        num_bytes = serialised_bytes(message)
        (message_id,) = self._grid.push_messages([message])
        return message_id, num_bytes

    def pull(self, message_id: str) -> Message | str | None:
        """Return the reply."""
        return next(iter(self._grid.pull_messages([message_id])), None)

    def judged(self, node: int, reply: Message | str) -> Update | Refusal:
        """Return the reply as an update, or why it is none."""
        assert isinstance(reply, Message)
        return read_update(reply, partial(self._exchange.update, node))

    def name_of(self, node: int, claimed: str) -> str:
        """Return what the node calls itself."""
        return claimed


@dataclass(frozen=True, slots=True)
class Posted:
    """A message that waits for its reply.

    Attributes:
        assignment: What it asks for.
        node: Whom.
        num_bytes: Its serialised length.
    """

    assignment: Assignment
    node: int
    num_bytes: int


class Desk:
    """Sends assignments out and takes answers in, for whoever keeps the time."""

    def __init__(
        self,
        workers: Workers,
        exchange: Exchange,
        merger: Merger,
        *,
        facts: Mapping[str, str] | None = None,
    ) -> None:
        """Begin with nobody known.

        Args:
            workers: Reach the nodes.
            exchange: How adapters travel.
            merger: Reads answers and has the adapters.
            facts: Put into the configuration of every message.
        """
        self.workers = workers
        self.merger = merger
        self.nodes: dict[str, int] = {}
        self.issued: dict[str, int] = {}
        self.starts: dict[int, Tensors] = {}
        self.untold: dict[int, str] = {}
        self.untold_names: dict[str, str] = {}
        self.refusals_in_a_row: dict[str, int] = {}
        self._exchange = exchange
        self._facts = dict(facts or {})
        self._rounds: dict[int, int] = {}

    def hello(self, node: int) -> str | None:
        """Ask a node who it is; return the message's id, None where it was not taken."""
        adapters = list(self.merger.adapters)
        config = ConfigRecord({"round": 0, ADAPTERS_KEY: adapters, **self._facts})
        content = RecordDict({"config": config})
        return self.workers.post("query", node, with_reason(content, self.untold.get(node)))[0]

    def admit(self, node: int, reply: Message | str) -> Client:
        """Return the client that answered a hello, and remember its node.

        Raises:
            ValueError: If the answer is none.
        """
        if isinstance(reply, str):
            raise ValueError(reply)
        if reply.has_error():
            raise ValueError(f"failed: {reply.error.reason}")
        try:
            claimed = str(reply.content["config"][CLIENT_KEY])
            claims = [int(claim) for claim in reply.content["metrics"][EXAMPLES_KEY]]
            by_adapter = dict(zip(self.merger.adapters, claims, strict=True))
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"reply cannot be decoded ({error!r})") from None
        name = self.workers.name_of(node, claimed)
        for claim in claims:
            if not 1 <= claim <= MOST_EXAMPLES:
                raise ValueError(f"claims {claim} examples, 1 to {MOST_EXAMPLES} are believed")
        if self.nodes.get(name, node) != node:
            raise ValueError(f"calls itself {name!r}, who is here already")
        self.nodes[name] = node
        self.untold.pop(node, None)  # it got the message, and the reason in it
        if name in self.untold_names:  # of an earlier process, whose nodes had other numbers
            self.untold[node] = self.untold_names.pop(name)
        self.refusals_in_a_row.pop(name, None)
        most = self.merger.trust.config.most_examples
        if most is not None and max(claims) > most:
            logger.info("examples capped clients=%s num=1 most_examples=%d", [name], most)
            by_adapter = {adapter: min(claim, most) for adapter, claim in by_adapter.items()}
        num_examples = self.merger.num_examples[name] = sum(by_adapter.values())
        return Client(name, num_examples, by_adapter if len(by_adapter) > 1 else {})

    def client_of(self, node: int) -> str:
        """Return the client that was met at a node."""
        return next((name for name, at in self.nodes.items() if at == node), f"node {node}")

    def groups(self, assignments: Iterable[Assignment]) -> list[list[Assignment]]:
        """Take assignments on, and return them in groups that are sent and answered together.

        A group has one start and one number that decides the batches: the round's in rounds, else
        the client's own count, for it may be sent one version twice. An assignment that was taken on
        before keeps its start.
        """
        groups: dict[tuple[str, int, int], list[Assignment]] = {}
        for one in assignments:
            if one.number not in self.starts:
                self.starts[one.number] = self.merger.adapters[one.adapter]
                self.issued[one.client] = self.issued.get(one.client, 0) + 1
            is_round = self.merger.is_synchronous
            number = one.version + 1 if is_round else self.issued[one.client]
            self._rounds[one.number] = number
            groups.setdefault((one.adapter, one.version, number), []).append(one)
        return list(groups.values())

    def send(self, group: Sequence[Assignment]) -> list[tuple[str | None, Posted]]:
        """Send one of `groups`; return the ids of the messages, None for those not taken."""
        start, round_number = self.starts[group[0].number], self._rounds[group[0].number]
        by_node = {self.nodes[one.client]: one for one in group}
        contents = self._exchange.downloads(start, by_node, round_number=round_number)
        return [self._post(node, by_node[node], content) for node, content in contents.items()]

    def receive(self, posted: Posted, reply: Message | str) -> Answer:
        """Return the reply to an assignment as an answer; it is kept for the version it will be in."""
        number = posted.assignment.number
        outcome = self.workers.judged(posted.node, reply)
        upload = Traffic.of(outcome.sent_bytes, self._contents(outcome, reply))
        if isinstance(outcome, Refusal):
            outcome = Refusal(
                posted.assignment.client, outcome.reason, outcome.sent_bytes, posted.node
            )
        elif outcome.client != posted.assignment.client:
            reason = f"calls itself {outcome.client!r}, {posted.assignment.client!r} was asked"
            outcome = Refusal(posted.assignment.client, reason, outcome.sent_bytes, posted.node)
        answer = self.merger.read(
            outcome,
            start=self.starts.pop(number),
            version=posted.assignment.version,
            declared=self._rounds.pop(number),
            upload=upload,
        )
        if isinstance(reply, Message) and not reply.has_error():
            self.untold.pop(posted.node, None)  # it got the message, and the reason in it
        self.merger.answers[number] = answer
        return answer

    def came(self, answer: Answer) -> bool:
        """Count an answer that has reached the server; return whether it can be merged."""
        self.merger.came(answer)
        refusal = answer.refusal
        if refusal is None:
            self.refusals_in_a_row.pop(answer.client, None)
            return True
        self.untold[refusal.node_id] = refusal.reason
        self.refusals_in_a_row[answer.client] = self.refusals_in_a_row.get(answer.client, 0) + 1
        return False

    def abandon(self, number: int, refusal: Refusal) -> None:
        """Take note that an assignment will not be answered."""
        self.starts.pop(number, None)
        self._rounds.pop(number, None)
        self.merger.lost(refusal)
        self.untold[refusal.node_id] = refusal.reason

    def end_exchange(self) -> None:
        """Take note that no further reply to what was sent counts."""
        self._exchange.end_round()

    def dismiss(self, client: str) -> None:
        """Forget a client that leaves."""
        self.nodes.pop(client, None)
        self.refusals_in_a_row.pop(client, None)
        self.merger.forget(client)

    def _post(
        self, node: int, assignment: Assignment, content: RecordDict
    ) -> tuple[str | None, Posted]:
        facts: dict[str, str | int] = {**self._facts, STEPS_KEY: assignment.steps}
        if assignment.adapter:
            facts[ADAPTER_KEY] = assignment.adapter
        config = ConfigRecord({**content["config"], **facts})
        content = with_reason(RecordDict({**content, "config": config}), self.untold.get(node))
        message_id, num_bytes = self.workers.post("train", node, content)
        traffic = Traffic.of(num_bytes, [self._exchange.content(content)])
        self.merger.tally = self.merger.tally.sent(num_bytes, traffic)
        return message_id, Posted(assignment, node, num_bytes)

    def _contents(self, outcome: Update | Refusal, reply: Message | str) -> list[Content]:
        if isinstance(outcome, Refusal) or isinstance(reply, str):
            return []
        return [self._exchange.content(reply.content, is_upload=True)]
