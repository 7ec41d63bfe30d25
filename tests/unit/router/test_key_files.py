"""Files of keys, and the command that makes keys."""

import hashlib
from pathlib import Path

import click
import pytest

from planner.errors import DocumentError
from router.cli import run
from router.errors import AuthenticationError
from router.governance.keys import read_key_ring
from router.governance.tenant import BudgetLimit, Tenant

DIGEST = hashlib.sha256(b"k").hexdigest()


def headers(key: str) -> list[tuple[bytes, bytes]]:
    """Return the headers of a request with a key."""
    return [(b"authorization", b"Bearer " + key.encode())]


def test_made_keys_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints a key that the file then knows by its digest, and never holds."""
    path = tmp_path / "keys.yaml"
    made = {}
    for name in ("alice", "bob"):
        run(["key", name, "--keys-file", str(path)])
        made[name] = capsys.readouterr().out.strip()
    ring = read_key_ring(path)
    for name, key in made.items():
        assert ring.identify(headers(key)).name == name
        assert key not in path.read_text()
    with pytest.raises(AuthenticationError):
        ring.identify(headers("another"))
    with pytest.raises(DocumentError, match="has a key named 'bob'"):
        run(["key", "bob", "--keys-file", str(path)])
    with pytest.raises(click.UsageError, match="NAME is"):
        run(["key", "no name", "--keys-file", str(path)])


def test_limits_are_read(tmp_path: Path) -> None:
    """Dollars become whole billionths; models may be beginnings."""
    path = tmp_path / "keys.yaml"
    path.write_text(
        f"keys: [{{name: a, sha256: {DIGEST}, models: [x, 'y-*'], requests_per_minute: 2,\n"
        "  budgets: [{per: day, usd: 0.1}, {per: total, tokens: 9}]}]"
    )
    tenant = read_key_ring(path).identify(headers("k"))
    assert tenant.limits.budgets == (
        BudgetLimit("day", cost_nanousd=100_000_000),
        BudgetLimit("total", tokens=9),
    )
    assert [tenant.allows(name) for name in ("x", "xx", "y-1", "y")] == [True, False, True, False]
    assert Tenant("b").allows("anything")


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("{name: a}", "needs one of sha256 and key_file"),
        (f"{{name: a, sha256: {DIGEST[1:]}}}", "keys.0.sha256"),
        (f"{{name: 'a b', sha256: {DIGEST}}}", "keys.0.name"),
        (f"{{name: a, sha256: {DIGEST}, budgets: [{{per: day}}]}}", "give one of them"),
        (f"{{name: a, sha256: {DIGEST}, requests_per_minute: 0}}", "requests_per_minute"),
        (f"{{name: a, sha256: {DIGEST}}}, {{name: b, sha256: {DIGEST}}}", "is the key of 'a'"),
        ("{name: a, key_file: a.key}", "can be read by others"),
    ],
)
def test_bad_files_are_one_line(tmp_path: Path, entry: str, problem: str) -> None:
    """Each mistake is told with its place, and no key is quoted."""
    path = tmp_path / "keys.yaml"
    path.write_text(f"keys: [{entry}]")
    (tmp_path / "a.key").write_text("a-very-secret-key")
    (tmp_path / "a.key").chmod(0o644)
    with pytest.raises(DocumentError) as caught:
        read_key_ring(path)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "a-very-secret-key" not in str(caught.value)
