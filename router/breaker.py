"""The circuit breaker of one replica.

Closed, every attempt is let through and its outcome noted. So many failures in a row, or so large a
share of failures in the window, open it: no attempt is let through. After a time it is half open: one
attempt is let through as a probe, and the next one only when that is given up or has taken as long
as the breaker was open. The first success closes it, a failure opens it again for twice the time.

Every change of state begins a new epoch. An attempt carries the epoch it began in, and an outcome of
another epoch changes nothing: of ten attempts under way when the breaker opens, nine do not open it
again. An attempt may begin while the breaker is open, as a last resort; it counts as a probe.

States and transitions are those of M. Nygard's pattern; the thresholds are `BreakerConfig`'s.
"""

import time
from collections import deque
from collections.abc import Callable
from enum import StrEnum

from router.faults_config import BreakerConfig

WINDOW_FACTOR = 10
"""The window holds so many times `min_outcomes`."""


class BreakerState(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """A pure state machine over an injected clock; every method takes constant time on average."""

    def __init__(
        self, config: BreakerConfig, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._monotonic = monotonic
        self._epoch = 0
        self._num_consecutive = 0
        self._outcomes: deque[tuple[float, bool]] = deque()
        self._num_failed = 0
        self._half_open_at: float | None = None
        """None while closed."""
        self._open_seconds = config.open_seconds
        self._next_probe_at = float("-inf")

    @property
    def is_closed(self) -> bool:
        """Whether every attempt is let through."""
        return self._half_open_at is None

    @property
    def state(self) -> BreakerState:
        """The state at this moment."""
        if self._half_open_at is None:
            return BreakerState.CLOSED
        if self._monotonic() < self._half_open_at:
            return BreakerState.OPEN
        return BreakerState.HALF_OPEN

    def admits(self) -> bool:
        """Return whether an attempt may begin now; changes nothing."""
        if self._half_open_at is None:
            return True
        return self._monotonic() >= max(self._half_open_at, self._next_probe_at)

    def begin(self) -> int:
        """Take note of an attempt; return its epoch, which its outcome must name."""
        if self._half_open_at is not None:
            self._next_probe_at = self._monotonic() + self._open_seconds
        return self._epoch

    def succeeded(self, epoch: int) -> None:
        """Note an attempt that the replica answered."""
        if epoch != self._epoch:
            return
        if self._half_open_at is None:
            self._num_consecutive = 0
            self._note(is_failure=False)
        else:
            self._close()

    def answers(self, epoch: int) -> None:
        """Note the first byte of a stream: enough for a probe, otherwise its end decides."""
        if epoch == self._epoch and self._half_open_at is not None:
            self._close()

    def failed(self, epoch: int) -> None:
        """Note an attempt that failed by the replica's fault."""
        if epoch != self._epoch:
            return
        if self._half_open_at is not None:
            self._open(min(2 * self._open_seconds, self._config.max_open_seconds))
            return
        self._num_consecutive += 1
        self._note(is_failure=True)
        if self._num_consecutive >= self._config.consecutive_failures or self._is_share_reached():
            self._open(self._config.open_seconds)

    def given_up(self, epoch: int) -> None:
        """Note an attempt that was ended from this side: it says nothing, another may probe."""
        if epoch == self._epoch:
            self._next_probe_at = float("-inf")

    def half_open(self) -> None:
        """Let a probe through now: a check says that the replica has come back."""
        if self._half_open_at is not None:
            self._epoch += 1
            self._half_open_at = self._monotonic()
            self._next_probe_at = float("-inf")

    def _note(self, *, is_failure: bool) -> None:
        now = self._monotonic()
        self._outcomes.append((now, is_failure))
        self._num_failed += is_failure
        oldest_at = now - self._config.window_seconds
        most = WINDOW_FACTOR * self._config.min_outcomes
        while self._outcomes[0][0] < oldest_at or len(self._outcomes) > most:
            self._num_failed -= self._outcomes.popleft()[1]

    def _is_share_reached(self) -> bool:
        num_outcomes = len(self._outcomes)
        return (
            num_outcomes >= self._config.min_outcomes
            and self._num_failed >= self._config.failure_fraction * num_outcomes
        )

    def _open(self, seconds: float) -> None:
        self._epoch += 1
        self._open_seconds = seconds
        self._half_open_at = self._monotonic() + seconds
        self._next_probe_at = float("-inf")

    def _close(self) -> None:
        self._epoch += 1
        self._half_open_at = None
        self._num_consecutive = self._num_failed = 0
        self._outcomes.clear()
