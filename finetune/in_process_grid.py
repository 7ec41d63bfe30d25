"""Flower's Grid in one process: a message runs the ClientApp at once, its reply waits to be pulled.

Flower offers no such Grid without Ray, so this file sets fields that are private to Flower, and is
the only one to do so. `check_flower` refuses a Flower in which they are not as expected.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from itertools import count

from flwr.app import Context, Error, Message, Metadata, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from finetune.errors import FinetuneError, FlowerError

OLDEST_FLOWER = (1, 41)
NEXT_MAJOR_FLOWER = (2, 0)
_RUN_ID = 1
_TASK_ID = 1


class InProcessGrid(Grid):  # type: ignore[misc]  # Flower is read as untyped
    """Runs every client in this process, one after the other, in the order of the messages."""

    def __init__(self, client_app: ClientApp, node_configs: Mapping[int, dict[str, str]]) -> None:
        """Make one node of each entry.

        Args:
            client_app: Answers the messages of all nodes.
            node_configs: What each node's Context carries, by node id; ids above 1, which is the
                server's.
        """
        check_flower()
        _identify_process()
        self._client_app = client_app
        self._contexts = {
            node_id: Context(_RUN_ID, node_id, config, state=RecordDict(), run_config={})
            for node_id, config in node_configs.items()
        }
        self._replies: dict[str, Message] = {}
        self._message_numbers = count(1)
        self._run = Run.create_empty(_RUN_ID)

    def server_context(self) -> Context:
        """Return the Context to call a ServerApp with."""
        return Context(_RUN_ID, SUPERLINK_NODE_ID, {}, state=RecordDict(), run_config={})

    def set_run(self, run: Run) -> None:
        """Take another run's description."""
        self._run = run

    @property
    def run(self) -> Run:
        """The run's description."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return an instruction from the server to one node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Run the ClientApp on each message; return the ids to pull the replies by."""
        return [self._run_client(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return, and forget, the replies to those messages that have one."""
        return [self._replies.pop(mid) for mid in message_ids if mid in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push and pull; every reply is there at once, so `timeout` is not needed."""
        return self.pull_messages(self.push_messages(messages))

    def _run_client(self, message: Message) -> str:
        message_id = self._stamp(message)
        try:
            reply = self._client_app(message, self._contexts[message.metadata.dst_node_id])
        except FinetuneError as error:
            failure = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, str(error))
            reply = Message(failure, reply_to=message)
        self._stamp(reply)
        self._replies[message_id] = reply
        return message_id

    def _stamp(self, message: Message) -> str:
        """Give the message an id as long as the SuperLink's, so that sizes are the same."""
        message_id = f"{next(self._message_numbers):064x}"
        message.metadata.__dict__["_message_id"] = message_id
        return message_id


def check_flower() -> None:
    """Check that the installed Flower is one this file can drive.

    Raises:
        FlowerError: If it is older than 1.41 or newer than 1.x, or keeps a message's id elsewhere.
    """
    installed = version("flwr")
    release = tuple(int(part) for part in installed.split(".")[:2])
    if not OLDEST_FLOWER <= release < NEXT_MAJOR_FLOWER:
        raise FlowerError(f"flwr {installed} is installed; install 'flwr>=1.41,<2'")
    if not {"_run_id", "_node_id", "_task_id"} <= vars(TaskIdentity).keys():
        raise FlowerError(f"flwr {installed} has another TaskIdentity; install 'flwr==1.41.*'")
    probe = Metadata(_RUN_ID, "", SUPERLINK_NODE_ID, SUPERLINK_NODE_ID, "", "", 0.0, 1.0, "train")
    if "_message_id" not in vars(probe):
        raise FlowerError(f"flwr {installed} has another Metadata; install 'flwr==1.41.*'")


def _identify_process() -> None:
    """Tell Flower that this process is the server of our run; messages cannot be made before."""
    TaskIdentity.run_id = _RUN_ID
    TaskIdentity.node_id = SUPERLINK_NODE_ID
    TaskIdentity.task_id = _TASK_ID
