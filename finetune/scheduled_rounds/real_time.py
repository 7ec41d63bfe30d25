"""A job's scheduler in real time: messages pushed, replies polled, deadlines by a clock handed in.

In one process a client answers while its message is pushed, so clients train one after the other.
Over a network they train at once, come and go; who is silent past its deadline leaves, and joins
again when it answers a hello.
"""

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from flwr.app import Message

from finetune.errors import RoundError
from finetune.patience import Patience
from finetune.scheduled_rounds.desk import Desk, Posted
from finetune.scheduled_rounds.ending import Ending
from finetune.scheduling.carry_out import carry_out
from finetune.scheduling.decisions import (
    Aggregation,
    Arm,
    Assignment,
    Client,
    Decision,
    Disarm,
    Discard,
)
from finetune.scheduling.scheduler import Scheduler
from finetune.updates import Refusal, one_line

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A message without a reply, and until when one counts; of a hello, the node alone."""

    node: int
    until_seconds: float
    posted: Posted | None = None


class RealTime:
    """Tells a scheduler what happens on a grid and does what it decides.

    Attributes:
        scheduler: Decides.
        has_happened: Whether anything has in the last step.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        desk: Desk,
        ending: Ending,
        patience: Patience,
        *,
        is_one_at_a_time: bool,
    ) -> None:
        """Begin where the scheduler stands; its time goes on from there.

        Args:
            scheduler: Decides.
            desk: Reaches the clients.
            ending: Tells when the job is done, and which clients are let go.
            patience: How long to wait, and by which clock.
            is_one_at_a_time: Send a group of messages once the one before is answered, as an exchange
                wants that remembers what it sent.
        """
        self.scheduler = scheduler
        self.has_happened = False
        self._desk = desk
        self._ending = ending
        self._patience = patience
        self._is_one_at_a_time = is_one_at_a_time
        self._origin = patience.clock() - scheduler.ledger.now_seconds
        self._armed = dict(scheduler.ledger.armed)
        self._unsent: deque[list[Assignment]] = deque()
        self._awaited: dict[str, _Awaited] = {}
        self._ask_again: dict[int, float] = {}
        self._lost_at: float | None = None
        self._first_met: list[Client] | None = []

    @property
    def now_seconds(self) -> float:
        """The scheduler's time: that of the run's processes, without the pauses between them."""
        return max(self._patience.clock() - self._origin, self.scheduler.ledger.now_seconds)

    def step(self) -> None:
        """Let happen what has come up, or pause.

        Raises:
            RoundError: If no client is left and none comes in time.
        """
        self._patience.check()
        has_happened = self._meet()
        has_met = self._first_met is None  # nothing is sent to clients nobody has met yet
        if has_met:
            has_happened |= self._send_next()
        has_happened |= self._poll()
        if has_met:
            has_happened |= self._tell_deadlines()
        self._do(self._ending.decisions(self.scheduler, now=self.now_seconds))
        if not has_happened:
            self._check_company()
            self._patience.sleep(POLL_SECONDS)
        self.has_happened = has_happened

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Take assignments on, to be sent in their turn, unless the job is done."""
        if not self._ending.is_reached(self.scheduler):
            self._unsent += self._desk.groups(assignments)

    def aggregate(self, aggregation: Aggregation) -> None:
        """Make the next version as the job says."""
        self._desk.merger.merge(aggregation, now=self.scheduler.ledger.now_seconds)

    def arm(self, arm: Arm) -> None:
        """Note a deadline."""
        self._armed[arm.number] = arm.at_seconds

    def disarm(self, disarm: Disarm) -> None:
        """Forget a deadline."""
        self._armed.pop(disarm.number, None)

    def discard(self, discard: Discard) -> None:
        """Forget an update, and count it."""
        self._desk.merger.discard(discard)

    def _do(self, decisions: Sequence[Decision]) -> None:
        carry_out(decisions, self)

    def _meet(self) -> bool:
        """Greet nodes that have come, and let those go that have left."""
        connected, now = set(self._desk.workers.connected()), self.now_seconds
        known = set(self._desk.nodes.values())
        greeted = {one.node for one in self._awaited.values() if one.posted is None}
        for client, node in list(self._desk.nodes.items()):
            if node not in connected:
                self._leave(client, "is not connected")
        for node in [node for node in self._ask_again if node not in connected]:
            del self._ask_again[node]  # it is asked at once when it is back
        has_asked = False
        for node in sorted(connected - known - greeted):
            if self._ask_again.get(node, now) <= now:
                self._ask_again[node] = now + self._patience.answer_seconds
                message_id = self._desk.hello(node)
                if message_id is not None:
                    has_asked = True
                    self._awaited[message_id] = _Awaited(node, self._ask_again[node])
        return has_asked

    def _send_next(self) -> bool:
        is_busy = any(one.posted is not None for one in self._awaited.values())
        if not self._unsent or (self._is_one_at_a_time and is_busy):
            return False
        outstanding = self.scheduler.ledger.outstanding
        group = [one for one in self._unsent.popleft() if one.number in outstanding]
        for message_id, posted in self._desk.send(group) if group else ():
            until = self.now_seconds + self._patience.answer_seconds
            if message_id is None:
                self._leave(posted.assignment.client, "was not sent its message")
            else:
                self._awaited[message_id] = _Awaited(posted.node, until, posted)
        return True

    def _poll(self) -> bool:
        """Take in what has been answered; those who said hello at one time join together."""
        has_come, is_answered = False, False
        joining: list[Client] = []
        for message_id, one in list(self._awaited.items()):
            reply = self._desk.workers.pull(message_id)
            if reply is None and self.now_seconds < one.until_seconds:
                continue
            has_come = True
            self._awaited.pop(message_id, None)
            if one.posted is not None:
                is_answered = True
                self._take_answer(one.posted, reply)
            elif reply is None:
                self._not_met(one.node, "gave no answer")
            else:
                joining += self._greeted(one.node, reply)
        if is_answered and not any(one.posted for one in self._awaited.values()):
            self._desk.end_exchange()
        self._join(joining)
        return has_come

    def _take_answer(self, posted: Posted, reply: Message | str | None) -> None:
        client, number = posted.assignment.client, posted.assignment.number
        if number not in self.scheduler.ledger.outstanding:
            return  # its client has left; the loss was counted then
        if reply is None:
            self._leave(client, f"gave no answer within {self._patience.answer_seconds:g} s")
            return
        answer = self._desk.receive(posted, reply)
        usable = self._desk.came(answer)
        if not usable and self._ending.lets_go(self._desk, client):
            self._ask_again[posted.node] = float("inf")
            self._do(self.scheduler.leave(client, now=self.now_seconds))
            self._desk.dismiss(client)
        loss = answer.loss if usable else None
        self._do(self.scheduler.arrive(number, now=self.now_seconds, usable=usable, loss=loss))

    def _greeted(self, node: int, reply: Message | str) -> list[Client]:
        try:
            client = self._desk.admit(node, reply)
        except ValueError as error:
            self._not_met(node, one_line(str(error)))
            return []
        self._ask_again.pop(node, None)
        logger.info("client met client=%s num_examples=%d", client.name, client.num_examples)
        return [client]

    def _not_met(self, node: int, reason: str) -> None:
        logger.warning("client not met node=%d reason=%r", node, reason)
        self._desk.untold[node] = reason

    def _join(self, clients: Iterable[Client]) -> None:
        """Let clients in; at first all that were asked together, and those of an earlier process."""
        clients = list(clients)
        if self._first_met is not None:
            self._first_met += clients
            if self._awaited or not self._first_met:
                return
            clients, self._first_met = self._first_met, None
            self._go_on()
        present = self.scheduler.ledger.clients
        new = [one for one in clients if one.name not in present]
        if new:
            new.sort(key=lambda one: self._desk.nodes[one.name])
            self._do(self.scheduler.join(new, now=self.now_seconds))

    def _go_on(self) -> None:
        """Send again what an earlier process had out, and let those go that are not back."""
        for client in list(self.scheduler.ledger.clients):
            if client not in self._desk.nodes:
                self._leave(client, "is not back")
        # Those who left may have freed clients for new work, which is outstanding too by now.
        outstanding = list(self.scheduler.ledger.outstanding.values())
        self._unsent = deque(self._desk.groups(outstanding))

    def _tell_deadlines(self) -> bool:
        now = self.now_seconds
        due = sorted((at, number) for number, at in self._armed.items() if at <= now)
        for _, number in due:
            if self._armed.pop(number, None) is not None:
                self._do(self.scheduler.deadline(number, now=now))
        return bool(due)

    def _leave(self, client: str, reason: str) -> None:
        """Let a client go that does not answer; what it was doing is counted as refused."""
        logger.warning("client left client=%s reason=%r", client, reason)
        if self._first_met is not None:  # an earlier process's are let go once the others are met
            self._first_met = [one for one in self._first_met if one.name != client]
        elif client in self.scheduler.ledger.clients:
            number = self.scheduler.ledger.busy.get(client)
            if number is not None:
                node = self._desk.nodes.get(client, 0)
                self._desk.abandon(number, Refusal(client, reason, 0, node))
            self._do(self.scheduler.leave(client, now=self.now_seconds))
        self._desk.dismiss(client)

    def _check_company(self) -> None:
        if self._desk.nodes or self._awaited or self._unsent:
            self._lost_at = None
            return
        now = self._patience.clock()
        self._lost_at = now if self._lost_at is None else self._lost_at
        if now - self._lost_at >= self._patience.connection_seconds:
            raise RoundError(
                f"no client takes part any more, for {self._patience.connection_seconds:g} s; mend "
                "them and run the job again to go on after the last version"
            )
