"""Discovery by a real DNS server, through the resolver every program uses."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "router_behind_dns.py"
APART = ("unshare", "--map-root-user", "--mount", "--net")


def can_be_apart() -> bool:
    """Return whether this machine lets us have namespaces of our own."""
    try:
        return subprocess.run([*APART, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not can_be_apart(), reason="no namespaces of one's own on this machine")
def test_what_leaves_dns_is_gone_within_one_refresh_and_trouble_changes_nothing() -> None:
    """A name gains and loses addresses, its server fails and is silent, the name goes and returns."""
    done = subprocess.run(
        [*APART, sys.executable, str(SCRIPT)],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
