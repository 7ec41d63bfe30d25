"""The edge to Flower's Runtime API at a SuperNode: messages answered by this very process.

Source: flwr 1.41, `supernode/runtime/run_clientapp.py`.
"""

import logging
import traceback
from collections.abc import Callable
from contextlib import closing

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.supercore.constant import TaskType
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from finetune.deployment.flower_processes import Link
from finetune.deployment.flower_runtime import acquire, heartbeats, task_client, token_client
from finetune.errors import FinetuneError

logger = logging.getLogger(__name__)


class Worker:
    """Takes the messages that reach a SuperNode and answers them, one after the other."""

    def __init__(
        self, link: Link, app: ClientApp, *, before: Callable[[Message, Context], None]
    ) -> None:
        """Connect to nothing yet.

        Args:
            link: To the SuperNode.
            app: Answers messages.
            before: Called with each message first; what it raises is the answer.
        """
        self._link = link
        self._app = app
        self._before = before
        self._tasks = task_client(link)
        self.num_answered = 0
        """Messages answered so far."""

    def answer_next(self) -> bool:
        """Answer the next message that waits; return whether there was one.

        A failure goes to the server as its reason and is logged here.

        Raises:
            httpx.TransportError: If the SuperNode does not answer.
        """
        token = acquire(self._tasks, TaskType.CLIENT_APP)
        if not token:
            return False
        with closing(token_client(self._link, token)) as client:
            with heartbeats(client):
                message, context, _, _ = pull_task_input(client)
                push_message(client, self._answer(message, context), context)
            push_task_output(client, context, SubStatus.COMPLETED, "")
        self.num_answered += 1
        return True

    def close(self) -> None:
        """Leave the SuperNode."""
        self._tasks.close()

    def _answer(self, message: Message, context: Context) -> Message:
        try:
            self._before(message, context)
            return self._app(message, context)
        except FinetuneError as error:
            logger.warning("message failed reason=%r", str(error))
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - the process edge
            # The message may quote the client's text: type and place are told, not the words.
            place = "".join(traceback.format_tb(error.__traceback__))
            logger.error("message failed unforeseen type=%s\n%s", type(error).__name__, place)
            reason = f"{type(error).__name__}; see the client's log"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
