"""Addresses behind a name: every one of them is a replica, as long as the name has it.

A headless Kubernetes Service is such a name: its Endpoints are the name's A and AAAA records. The
system's resolver is asked, which knows the cluster's search domains and caches nothing; ports come
from the configuration, since it answers no SRV questions. Lookups begin at a fixed pace whatever the
replicas do, and the first answer without an address drains it, whether or not another replica is
ready: within one refresh, where the resolver is quick. Until one is, requests wait for a short time
(`retry.wait_seconds`).

That a name has no addresses, or does not exist, is an answer: the last replica has left. A lookup
that fails or takes too long is none: the addresses found before stay, and it is logged and counted.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

from router.config import ReplicaConfig
from router.discovery.config import DnsSource
from router.discovery.member import Member

logger = logging.getLogger(__name__)

NO_ADDRESS = frozenset(
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_ADDRFAMILY")
    if hasattr(socket, name)
)
"""Codes of the system's resolver that say: there is none."""


class Resolver(Protocol):
    """Knows the addresses of names."""

    async def addresses(self, host: str) -> Collection[str]:
        """Return the IPv4 and IPv6 addresses of a name; none where it has none.

        Raises:
            OSError: If nobody answers the question.
            UnicodeError: If the name is none that can be asked for.
        """
        ...


class SystemResolver:
    """What every program of the machine asks; at most one lookup of a name runs at a time."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[frozenset[str]]] = {}

    async def addresses(self, host: str) -> frozenset[str]:
        """Return the addresses; a lookup that still runs is waited for instead of a second one."""
        running = self._running.get(host)
        if running is None:
            running = self._running[host] = asyncio.ensure_future(self._look_up(host))
            running.add_done_callback(lambda _: self._running.pop(host, None))
        return await asyncio.shield(running)

    async def _look_up(self, host: str) -> frozenset[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno in NO_ADDRESS:
                return frozenset()
            raise
        # Link-local addresses carry a zone of this machine, which no URL can name.
        return frozenset(str(each[4][0]) for each in found if "%" not in str(each[4][0]))


class DnsWatch:
    """Looks one name up, again and again."""

    def __init__(
        self,
        source: DnsSource,
        resolver: Resolver,
        *,
        found: Callable[[str, tuple[Member, ...]], object],
        failed: Callable[[str], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            source: What to look up.
            resolver: Whom to ask.
            found: Gets the source's name and all its members after each answer; does not wait.
            failed: Gets the source's name after each lookup without an answer.
            sleep: Waits.
            monotonic: Seconds.
        """
        self.source = source
        self._resolver = resolver
        self._found = found
        self._failed = failed
        self._sleep = sleep
        self._monotonic = monotonic
        self._is_failing = False
        self._is_empty = False

    async def look(self) -> tuple[Member, ...] | None:
        """Return the members there are now; None where nobody answered."""
        source = self.source
        try:
            async with asyncio.timeout(source.timeout_seconds):
                addresses = await self._resolver.addresses(source.host)
        except TimeoutError:
            self._note_failure(f"no answer within {source.timeout_seconds:g} seconds")
            return None
        except OSError as error:
            self._note_failure(error.strerror or type(error).__name__)
            return None
        except UnicodeError as error:
            self._note_failure(str(error))
            return None
        if self._is_failing:
            self._is_failing = False
            logger.info("lookups succeed again source=%s", source.name)
        if not addresses and not self._is_empty:
            logger.warning("source has no replicas source=%s host=%s", source.name, source.host)
        self._is_empty = not addresses
        return members_at(source, addresses)

    async def run(self) -> None:
        """Look up at the source's pace until cancelled; the first time after one pause."""
        due_at = self._monotonic()
        while True:
            due_at = max(due_at + self.source.refresh_seconds, self._monotonic())
            await self._sleep(due_at - self._monotonic())
            members = await self.look()
            if members is not None:
                self._found(self.source.name, members)

    def _note_failure(self, problem: str) -> None:
        self._failed(self.source.name)
        if not self._is_failing:
            self._is_failing = True
            logger.warning(
                "lookup failed, its replicas stay source=%s problem=%s", self.source.name, problem
            )


def members_at(source: DnsSource, addresses: Collection[str]) -> tuple[Member, ...]:
    """Return the members of a source that has these addresses, in a stable order."""
    return tuple(
        Member(
            source.model,
            ReplicaConfig(
                url=_url(address, source.port),
                offer=source.offer,
                api_key_file=source.api_key_file,
            ),
            source.name,
        )
        for address in sorted(addresses)
    )


def _url(address: str, port: int) -> str:
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
