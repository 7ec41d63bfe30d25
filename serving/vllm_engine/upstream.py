"""HTTP to vLLM's server over its socket in the file system."""

import logging
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from yarl import URL

from serving.errors import SlowRequestError, UnavailableError
from serving.time_limit import too_slow

logger = logging.getLogger(__name__)

_BASE = "http://vllm"
_CONTROL_SECONDS = 5.0
ADAPTER_SECONDS = 120.0
"""Longest that loading an adapter may take."""


class VllmUpstream:
    """Requests to the server; bytes pass as they are."""

    def __init__(
        self, session: aiohttp.ClientSession, *, adapter_seconds: float = ADAPTER_SECONDS
    ) -> None:
        self._session = session
        self._adapter_seconds = adapter_seconds

    async def send(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes,
        timeout_seconds: float | None = None,
    ) -> aiohttp.ClientResponse:
        """Return the answer once its head is there; the caller closes it.

        Args:
            method: HTTP's.
            target: Path and query.
            headers: All that are sent.
            body: Sent as it is.
            timeout_seconds: Longest until its last byte, a `TimeoutError` of who reads it from then
                on; None sets no limit.

        Raises:
            SlowRequestError: If the head does not come in time.
            UnavailableError: If there is none.
        """
        try:
            return await self._session.request(
                method,
                URL(_BASE + target, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout_seconds),
            )
        except TimeoutError:
            assert timeout_seconds is not None, "nothing else sets a limit"
            raise too_slow(timeout_seconds) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _broken_off(error) from None

    async def is_healthy(self) -> bool:
        """Whether its health check says so in time."""
        try:
            timeout = aiohttp.ClientTimeout(total=_CONTROL_SECONDS)
            async with self._session.get(f"{_BASE}/health", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    async def version(self) -> str | None:
        """Return vLLM's version, where it says it in time."""
        try:
            timeout = aiohttp.ClientTimeout(total=_CONTROL_SECONDS)
            async with self._session.get(f"{_BASE}/version", timeout=timeout) as response:
                return str((await response.json())["version"])
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, KeyError, TypeError):
            return None

    async def metrics(self) -> bytes:
        """Return its metrics; nothing while it does not answer."""
        try:
            timeout = aiohttp.ClientTimeout(total=_CONTROL_SECONDS)
            async with self._session.get(f"{_BASE}/metrics", timeout=timeout) as response:
                return await response.read() if response.status == 200 else b""
        except (aiohttp.ClientError, OSError, TimeoutError):
            return b""

    async def models(self) -> bytes:
        """Return its list of models.

        Raises:
            UnavailableError: If it does not say in time.
        """
        try:
            timeout = aiohttp.ClientTimeout(total=_CONTROL_SECONDS)
            async with self._session.get(f"{_BASE}/v1/models", timeout=timeout) as response:
                response.raise_for_status()
                return await response.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _broken_off(error) from None

    async def post_adapter(self, path: str, body: Mapping[str, str]) -> tuple[int, bytes]:
        """Return status and body of a request to load or unload an adapter.

        Raises:
            SlowRequestError: If the answer does not come in time; vLLM still does what it was told.
            UnavailableError: If there is none.
        """
        try:
            timeout = aiohttp.ClientTimeout(total=self._adapter_seconds)
            headers = {"content-type": "application/json"}  # no header is added by itself
            async with self._session.post(
                f"{_BASE}{path}", json=dict(body), headers=headers, timeout=timeout
            ) as response:
                return response.status, await response.read()
        except TimeoutError:
            raise SlowRequestError(
                f"vllm did not answer {path} in {self._adapter_seconds:g} seconds; retry, or see "
                "the server's log"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise _broken_off(error) from None


def _broken_off(error: Exception) -> UnavailableError:
    return UnavailableError(
        f"vllm broke off ({type(error).__name__}); retry, or see the server's log"
    )


@asynccontextmanager
async def open_upstream(
    uds: Path, *, adapter_seconds: float = ADAPTER_SECONDS
) -> AsyncGenerator[VllmUpstream]:
    """Yield a client of the server that listens, or will listen, on `uds`."""
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(str(uds), limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trust_env=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
    ) as session:
        yield VllmUpstream(session, adapter_seconds=adapter_seconds)
