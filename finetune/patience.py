"""How long a server waits for clients, and by which clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the server waits.

    Attributes:
        answer_seconds: For an answer; also how long a message lives.
        connection_seconds: For clients that are not connected.
        check: Called while it waits; raises what ends the job.
        clock: Seconds that only grow.
        sleep: Waits so many seconds.
    """

    answer_seconds: float
    connection_seconds: float
    check: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


IN_PROCESS = Patience(answer_seconds=float("inf"), connection_seconds=0, check=lambda: None)
"""With clients of the same process, who answer while they are asked."""
