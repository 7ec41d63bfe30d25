"""What requests have found out about each replica: its breaker, whether it is suspected or busy.

Checks say whether a replica is up (`health.py`); a guard says whether its answers are any good. The
first failed attempt makes a replica *suspect*, until a check has passed. If checks pass and attempts
go on failing, the breaker opens. Who is suspect or broken is asked after all others. A 429 sets the
replica aside for as long as its `Retry-After` says; until then it is not asked at all.

A guard also knows the attempts that wait for a first byte, so that they can leave a replica which a
check has found dead, instead of waiting out their time there. Where many wait and none has got its
first byte for a second, the replica is suspect too: a stopped process takes whatever it is sent, and
would be given all there is while the others' breakers are open. One that only works on long answers
passes its check within milliseconds.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from router.breaker import Breaker, BreakerState
from router.faults_config import BreakerConfig
from router.upstream_connection import Exchange, LeaveError

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.25
"""A request does not ask a replica again that failed it less long ago, though a check has passed."""
SILENT_SECONDS = 1.0
SILENT_ATTEMPTS = 8
"""A replica is doubted where so many attempts wait and so long none of them has come to anything."""


@dataclass(slots=True)
class Guard:
    """One replica's; only this module and the attempts that wait change it."""

    breaker: Breaker
    is_suspect: bool = False
    busy_until: float = float("-inf")
    """Monotonic seconds."""
    passed_check_at: float = float("-inf")
    """When the last check began that it passed; monotonic seconds."""
    waiting: set[Exchange] = field(default_factory=set)
    """Without a first byte yet; `Upstream.send` keeps it."""
    silent_since: float = float("-inf")
    """When an answer last began, or the first of those that wait."""

    def is_calm(self, now: float) -> bool:
        """Return whether nothing speaks against it."""
        return self.breaker.is_closed and not self.is_suspect and self.busy_until <= now


class Ticket:
    """One attempt's line to the guard of its replica; the first outcome counts, later ones do not."""

    __slots__ = ("_epoch", "_guard", "_is_open", "_on_failure", "url")

    def __init__(self, url: str, guard: Guard, on_failure: Callable[[str, Guard], None]) -> None:
        """Begin an attempt; `on_failure` is told if it fails by the replica's fault."""
        self._guard = guard
        self._epoch = guard.breaker.begin()
        self._on_failure = on_failure
        self._is_open = True
        self.url = url

    def succeeded(self) -> None:
        """The replica answered as it should, to the end."""
        if self._take():
            self._guard.breaker.succeeded(self._epoch)

    def answers(self) -> None:
        """The first byte of a stream has come; its end is still to be told."""
        self._guard.breaker.answers(self._epoch)

    def failed(self) -> None:
        """The replica did not answer as it should: it is suspect until a check passes."""
        if self._take():
            was_closed = self._guard.breaker.is_closed
            self._guard.breaker.failed(self._epoch)
            self._guard.is_suspect = True
            self._on_failure(self.url, self._guard)
            if was_closed and not self._guard.breaker.is_closed:
                logger.warning("breaker opened url=%s", self.url)

    def given_up(self) -> None:
        """The attempt was ended from this side, which says nothing of the replica."""
        if self._take():
            self._guard.breaker.given_up(self._epoch)

    def _take(self) -> bool:
        is_open, self._is_open = self._is_open, False
        return is_open


class Guards:
    """The guards of a fleet, made as replicas are used; told by the health monitor what checks say."""

    def __init__(
        self, config: BreakerConfig, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._config = config
        self._monotonic = monotonic
        self._guards: dict[str, Guard] = {}
        self._troubled: set[str] = set()
        """Superset of those that are not calm; mostly empty, which makes `barred` cheap."""

    def of(self, url: str) -> Guard:
        """Return the guard of a replica."""
        guard = self._guards.get(url)
        if guard is None:
            breaker = Breaker(self._config, monotonic=self._monotonic)
            guard = self._guards[url] = Guard(breaker)
        return guard

    def configure(self, config: BreakerConfig) -> None:
        """Go by other settings; where they differ every breaker begins anew, closed."""
        if config != self._config:
            self._config = config
            for guard in self._guards.values():
                guard.breaker = Breaker(config, monotonic=self._monotonic)

    def forget(self, url: str) -> None:
        """Drop what is known of a replica that has left the fleet."""
        self._guards.pop(url, None)
        self._troubled.discard(url)

    def begin(self, url: str) -> Ticket:
        """Take note of an attempt."""
        return Ticket(url, self.of(url), self._note_trouble)

    def awaits(self, guard: Guard) -> None:
        """Take note of an attempt that is about to wait for its first byte."""
        if not guard.waiting:
            guard.silent_since = self._monotonic()

    def heard(self, guard: Guard) -> None:
        """Take note that an answer has begun."""
        guard.silent_since = self._monotonic()

    def is_silent(self, url: str) -> bool:
        """Return whether a replica has just become suspect because it does not answer anyone."""
        guard = self.of(url)
        now = self._monotonic()
        if len(guard.waiting) < SILENT_ATTEMPTS or now - guard.silent_since < SILENT_SECONDS:
            return False
        guard.is_suspect = True
        guard.silent_since = now  # the next check not before another second of silence
        self._troubled.add(url)
        return True

    def barred(self) -> frozenset[str]:
        """Return the replicas that should get no request now."""
        if not self._troubled:
            return frozenset()
        now = self._monotonic()
        self._troubled = {url for url in self._troubled if not self.of(url).is_calm(now)}
        return frozenset(
            url
            for url in self._troubled
            if (guard := self.of(url)).is_suspect
            or guard.busy_until > now
            or not guard.breaker.admits()
        )

    def busy(self) -> frozenset[str]:
        """Return the replicas that have said 429 and are left alone."""
        if not self._troubled:
            return frozenset()
        now = self._monotonic()
        return frozenset(url for url in self._troubled if self.of(url).busy_until > now)

    def busy_seconds(self, urls: Iterable[str]) -> float | None:
        """Return how long until the first of those that are busy is asked again; None: none is."""
        now = self._monotonic()
        left = [until - now for url in urls if (until := self.of(url).busy_until) > now]
        return min(left, default=None)

    def is_better_since(self, url: str, at: float) -> bool:
        """Return whether a replica that failed or was busy then may be asked again now."""
        guard = self.of(url)
        now = self._monotonic()
        was_busy_only = at <= guard.busy_until <= now and not guard.is_suspect
        is_well = guard.passed_check_at > at and now - at >= AGAIN_SECONDS
        return is_well or was_busy_only

    def set_aside(self, url: str, *, seconds: float) -> None:
        """Leave a replica alone that said 429."""
        if seconds > 0:
            guard = self.of(url)
            guard.busy_until = max(guard.busy_until, self._monotonic() + seconds)
            self._troubled.add(url)

    def check_passed(self, url: str, *, begun_at: float, was_down: bool) -> None:
        """Take in a check that found the replica well.

        Args:
            url: The replica.
            begun_at: When the check began; monotonic seconds.
            was_down: Whether checks had found it down before: then a probe may go there at once.
        """
        guard = self.of(url)
        guard.is_suspect = False
        guard.passed_check_at = begun_at
        if was_down:
            guard.breaker.half_open()

    def went_down(self, url: str) -> None:
        """Have the attempts that wait on a replica leave it: checks have found it down."""
        for exchange in tuple(self.of(url).waiting):
            exchange.fail(LeaveError())

    def states(self, urls: Iterable[str]) -> Mapping[str, BreakerState]:
        """Return the breaker's state of each replica."""
        return {url: self.of(url).breaker.state for url in urls}

    def _note_trouble(self, url: str, guard: Guard) -> None:
        if self._guards.get(url) is guard:  # not of a replica that has left meanwhile
            self._troubled.add(url)
