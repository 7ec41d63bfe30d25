"""The clients behind a SuperLink as a scheduled job reaches them: one message, one reply at a time."""

from collections.abc import Mapping

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from finetune.deployment.grid_clients import BASE_KEY, DeployedClients
from finetune.flower_records import DenseExchange, serialised_bytes
from finetune.patience import Patience
from finetune.scheduled_rounds.scheduled_job import Reach
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.updates import Refusal, Update


class DeployedWorkers:
    """Nodes of a SuperLink; see `scheduled_rounds.desk.Workers`."""

    def __init__(self, grid: Grid, clients: DeployedClients, *, answer_seconds: float) -> None:
        """Keep the grid, and who knows the nodes' names.

        Args:
            grid: Reaches the nodes.
            clients: Tells who is there, and reads replies.
            answer_seconds: How long a message lives.
        """
        self._grid = grid
        self._clients = clients
        self._answer_seconds = answer_seconds

    def connected(self) -> list[int]:
        """Return the nodes that are there and may take part; who came and who left is logged."""
        return self._clients.connected()

    def post(self, kind: str, node: int, content: RecordDict) -> tuple[str | None, int]:
        """Send a message; it waits for its node until the answer would be late."""
        message = Message(content, node, kind, ttl=self._answer_seconds, group_id="")
        num_bytes = serialised_bytes(message)
        # Flower gives no id for a message that the SuperLink did not take.
        return next(iter(self._grid.push_messages([message])), None) or None, num_bytes

    def pull(self, message_id: str) -> Message | str | None:
        """Return the reply, why it cannot be read, or None if none is there."""
        return self._clients.pull(message_id)

    def judged(self, node: int, reply: Message | str) -> Update | Refusal:
        """Return a reply as an update under the node's own name, or why it is none."""
        return self._clients.judged(node, reply)

    def name_of(self, node: int, claimed: str) -> str:
        """Return the client that the node's key belongs to.

        Raises:
            ValueError: If it calls itself otherwise.
        """
        problem = self._clients.false_name(node, claimed)
        if problem is not None:
            raise ValueError(problem)
        return claimed


def reach_of(
    grid: Grid,
    clients: DeployedClients,
    base_weights_sha256: str,
    patience: Patience,
    seeded: Seeded = EVERYTHING_CROSSES,
    ranks: Mapping[int, int] | None = None,
) -> Reach:
    """Return how a scheduled job's assignments reach the clients of a SuperLink; whole adapters cross.

    Args:
        grid: Reaches the nodes.
        clients: The same clients, for judging.
        base_weights_sha256: Digest of the base model that every client must have.
        patience: How long to wait for them.
        seeded: What every client made of the adapter itself, and no message carries.
        ranks: Most components that a node trains; one without gets all.
    """
    facts: Mapping[str, str] = {BASE_KEY: base_weights_sha256}
    workers = DeployedWorkers(grid, clients, answer_seconds=patience.answer_seconds)
    return Reach(workers, DenseExchange(seeded, ranks), patience, facts)
