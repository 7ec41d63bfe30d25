"""How many retries a router may send: a share of its recent requests, and a floor.

Where a whole fleet fails, retries multiply the load just when it can be borne least. Each request
adds `fraction` to a credit that fades with a time constant of ten seconds; beside it stands a bucket
that fills at `floor_per_second` and holds ten seconds of it. A retry takes one from the credit or,
where there is less than one, from the bucket. So retries never exceed

    fraction x requests + floor_per_second x (10 + seconds passed)

besides those of requests that a replica held when checks found it down, which multiply no load.
"""

import math
import time
from collections.abc import Callable

MEMORY_SECONDS = 10.0
"""Time constant of the credit, and what the bucket holds."""


class RetryBudget:
    """Tokens of all requests together; constant time a call."""

    def __init__(
        self,
        *,
        fraction: float,
        floor_per_second: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self.configure(fraction=fraction, floor_per_second=floor_per_second)
        self._credit = 0.0
        self._bucket = floor_per_second * MEMORY_SECONDS
        self._updated_at = monotonic()

    def configure(self, *, fraction: float, floor_per_second: float) -> None:
        """Go by other shares from now on; what is in store stays."""
        self._fraction = fraction
        self._floor_per_second = floor_per_second

    def deposit(self) -> None:
        """Take note of a request."""
        self._pass_time()
        self._credit += self._fraction

    def withdraw(self) -> bool:
        """Take what one retry costs; return whether there was enough."""
        self._pass_time()
        if self._credit >= 1:
            self._credit -= 1
        elif self._bucket >= 1:
            self._bucket -= 1
        else:
            return False
        return True

    def _pass_time(self) -> None:
        now = self._monotonic()
        seconds = now - self._updated_at
        self._updated_at = now
        self._credit *= math.exp(-seconds / MEMORY_SECONDS)
        most = self._floor_per_second * MEMORY_SECONDS
        self._bucket = min(most, self._bucket + self._floor_per_second * seconds)
