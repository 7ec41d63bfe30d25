"""The HTTP server of one worker among several."""

import asyncio
import os
import socket

import uvicorn

from planner import listening
from router.workers.supervisor import Ties


class WorkerServer(listening.GracefulServer):
    """Tells its supervisor when it answers, and stops in order when the supervisor is gone."""

    def __init__(self, config: uvicorn.Config, *, ties: Ties) -> None:
        super().__init__(config)
        self._ties = ties

    def announce(self, listeners: list[socket.socket]) -> None:
        """Tell the supervisor, which names the address when every worker answers."""
        os.write(self._ties.ready, b".")
        asyncio.get_running_loop().add_reader(self._ties.life, self._stop)

    def _stop(self) -> None:
        asyncio.get_running_loop().remove_reader(self._ties.life)
        self.should_exit = True
