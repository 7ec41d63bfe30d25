"""A job's scheduler under the virtual clock: the clients train in this process, times are computed."""

from collections.abc import Mapping, Sequence

from finetune.errors import RoundError
from finetune.scheduled_rounds.desk import Desk
from finetune.scheduled_rounds.ending import Ending
from finetune.scheduled_rounds.memory import ClockMemory
from finetune.scheduling.config import MachineConfig
from finetune.scheduling.decisions import Aggregation, Assignment, Client, Decision, Discard
from finetune.scheduling.scheduler import Scheduler
from finetune.updates import Tensors
from finetune.virtual_clock import ClockState, LocalResult, SimulatedClient, VirtualClock


class DeskWork:
    """Local training over a grid whose replies are there at once."""

    def __init__(self, desk: Desk) -> None:
        """Keep the desk."""
        self._desk = desk

    def train(self, tensors: Tensors, assignments: Sequence[Assignment]) -> list[LocalResult]:
        """Return what each assignment costs and gives; the answers themselves stay with the desk."""
        desk, results = self._desk, dict[int, LocalResult]()
        for group in desk.groups(assignments):
            for message_id, posted in desk.send(group):
                reply = None if message_id is None else desk.workers.pull(message_id)
                assert reply is not None, "a client of this process answers at once"
                answer = desk.receive(posted, reply)
                results[posted.assignment.number] = LocalResult(
                    change={},
                    loss=answer.loss,
                    download_bytes=posted.num_bytes,
                    upload_bytes=answer.upload_bytes,
                    is_usable=answer.refusal is None,
                )
            desk.end_exchange()
        return [results[one.number] for one in assignments]


class JobClock(VirtualClock):
    """The clock of one job: its desk trains, its merger makes versions."""

    def __init__(
        self,
        scheduler: Scheduler,
        desk: Desk,
        ending: Ending,
        machines: Mapping[str, MachineConfig],
        clients: Sequence[Client],
    ) -> None:
        """Set the clock to 0; all clients join there.

        Args:
            scheduler: Decides.
            desk: Lets clients train.
            ending: Tells when the job is done, and which clients are let go.
            machines: By client.
            clients: As they said hello.
        """
        super().__init__(
            scheduler,
            DeskWork(desk),
            [_simulated(client, machines[client.name]) for client in clients],
            desk.merger.adapters,
        )
        self.adapters = desk.merger.adapters  # the very mapping that the merger changes
        self._desk = desk
        self._ending = ending

    def step(self) -> None:
        """Let the next event happen.

        Raises:
            RoundError: If there is none: no client is left.
        """
        if self.is_idle:
            raise RoundError(
                "every client was left out, for its updates were refused again and again; mend them "
                "and run the job again to go on after the last version"
            )
        super().step()
        self.carry_out(self._ending.decisions(self.scheduler, now=self.now_seconds))

    def assign(self, assignments: Sequence[Assignment]) -> None:
        """Let clients train, unless the job is done."""
        if not self._ending.is_reached(self.scheduler):
            super().assign(assignments)

    def aggregate(self, aggregation: Aggregation) -> None:
        """Make the next version as the job says."""
        for one in aggregation.contributions:
            self.results.pop(one.number)
        self._desk.merger.merge(aggregation, now=self.now_seconds)
        self.num_aggregations += 1

    def answered(self, number: int) -> list[Decision]:
        """Count an answer and tell the scheduler; let the client go if it was refused too often."""
        answer = self._desk.merger.answers[number]
        left: list[Decision] = []
        if not self._desk.came(answer) and self._ending.lets_go(self._desk, answer.client):
            left = self.scheduler.leave(answer.client, now=self.now_seconds)
            self._desk.dismiss(answer.client)
        return [*left, *super().answered(number)]

    def discard(self, discard: Discard) -> None:
        """Forget an update, and count it."""
        super().discard(discard)
        self._desk.merger.discard(discard)

    @property
    def memory(self) -> ClockMemory:
        """What is to come, for a checkpoint."""
        return ClockMemory(
            queue=self.state.queue,
            results=tuple(
                (number, one.upload_bytes, one.loss, one.is_usable)
                for number, one in self.results.items()
            ),
            num_events=self.num_events,
        )

    def go_on(self, memory: ClockMemory) -> None:
        """Go on from a checkpoint; the scheduler's time is the clock's."""
        results = {
            number: LocalResult({}, loss, 0, num_bytes, is_usable)
            for number, num_bytes, loss, is_usable in memory.results
        }
        self.restore(
            ClockState(
                now_seconds=self.scheduler.ledger.now_seconds,
                queue=memory.queue,
                results=results,
                joining={},
                num_events=memory.num_events,
                num_aggregations=sum(self.scheduler.ledger.versions.values()),
                discards={},
                download_bytes=0,
                upload_bytes=0,
            )
        )


def _simulated(client: Client, machine: MachineConfig) -> SimulatedClient:
    return SimulatedClient(
        client,
        machine.seconds_per_step,
        machine.download_bytes_per_second,
        machine.upload_bytes_per_second,
    )
