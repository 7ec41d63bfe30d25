"""A router that asks a real DNS server through the system's resolver.

Run in namespaces of its own (`unshare -rmn`): the resolver's file is another there, and port 53 free.
Exits 0 when the router did what it should.
"""

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from fakes import FakeReplica  # noqa: E402
from name_server import NameServer  # noqa: E402
from reloadable_router import ReloadableRouter, reloadable_router  # noqa: E402

from planner.loopback import ensure_loopback  # noqa: E402

NAME = "pool.default.svc.cluster.local"
REFRESH_SECONDS = 0.5
WHOLE = {"model": "tiny", "prompt": "x"}


def ask_here(folder: Path) -> None:
    """Have the system's resolver of this namespace ask 127.0.0.1 alone."""
    ensure_loopback()
    settings = folder / "resolv.conf"
    settings.write_text(
        "nameserver 127.0.0.1\nsearch default.svc.cluster.local\noptions timeout:1 attempts:1\n"
    )
    subprocess.run(["mount", "--bind", str(settings), "/etc/resolv.conf"], check=True)


async def follow(server: NameServer, router: ReloadableRouter, replica: FakeReplica) -> None:
    """Take the name through what happens to a Service, and check the fleet each time."""
    other = replica.url.replace("127.0.0.1", "127.0.0.2")
    await router.until_urls(replica.url)
    answer = await router.client.post("/v1/completions", json=WHOLE)
    assert answer.status_code == 200, answer.text
    server.addresses = ["127.0.0.1", "127.0.0.2"]
    await router.until_urls(replica.url, other)
    num_questions = server.num_questions
    server.addresses = ["127.0.0.1"]
    await router.until_urls(replica.url)
    assert server.num_questions - num_questions <= 1, "gone with the first lookup without it"

    failures = "motley_router_lookup_failures_total{"
    for trouble in ("is_failing", "is_silent"):
        before = float(await router.sample(failures) or 0)
        setattr(server, trouble, True)
        async with asyncio.timeout(30):
            while float(await router.sample(failures) or 0) < before + 2:
                await asyncio.sleep(0.05)
        assert await router.urls() == [replica.url]
        setattr(server, trouble, False)

    server.knows_name = False
    await router.until_urls()
    server.knows_name = True
    await router.until_urls(replica.url)
    server.addresses = []
    await router.until_urls()


async def main(folder: Path) -> None:
    """Serve the name, run the router."""
    server = NameServer(NAME)
    server.addresses = ["127.0.0.1"]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: server, local_addr=("127.0.0.1", 53))
    async with FakeReplica() as replica:
        source = {
            "kind": "dns",
            "model": "tiny",
            "host": "pool",  # completed by the search domain, as names inside a cluster are
            "port": urlsplit(replica.url).port,
            "refresh_seconds": REFRESH_SECONDS,
        }
        content = {"models": [{"name": "tiny"}], "discovery": {"sources": [source]}}
        async with reloadable_router(folder, content=content) as router:
            await follow(server, router, replica)
    transport.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        ask_here(Path(name))
        uvloop.run(main(Path(name)))
