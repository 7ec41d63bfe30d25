"""What commands have changed, on disk."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config import ReplicaConfig
from router.discovery.amendments import Amendments, MemoryStore
from router.discovery.member import ADMIN, Member
from router.discovery.state_file import StateFile
from router.errors import StateFileError


def member(number: int, offer: str | None = None) -> Member:
    return Member("m", ReplicaConfig(url=f"http://h{number}", offer=offer), ADMIN)


COMMANDS = st.lists(
    st.tuples(st.sampled_from(["add", "away"]), st.integers(0, 3), st.booleans()), max_size=12
)


@given(COMMANDS)
def test_the_file_keeps_what_memory_keeps(
    tmp_path_factory: pytest.TempPathFactory, commands
) -> None:
    """After any commands another process reads from disk what one process remembers."""
    path = tmp_path_factory.mktemp("state") / "replicas.json"
    memory, file = MemoryStore(), StateFile(path)
    for kind, number, flag in commands:

        def change(now: Amendments, kind=kind, number=number, flag=flag) -> Amendments:
            if kind == "add":
                return now.adding(member(number, "L4" if flag else None))
            return now.without(f"http://h{number}", is_named_elsewhere=flag)

        assert file.change(change) == memory.change(change)
    assert StateFile(path).change(lambda now: now) == memory.change(lambda now: now)


def test_changes_of_several_processes_add_up(tmp_path: Path) -> None:
    """Forty additions through forty stores, eight at a time: none is lost."""
    path = tmp_path / "replicas.json"
    with ThreadPoolExecutor(8) as pool:
        for done in [
            pool.submit(StateFile(path).change, lambda now, n=number: now.adding(member(n)))
            for number in range(40)
        ]:
            done.result()
    kept = StateFile(path).change(lambda now: now)
    assert {each.replica.url for each in kept.added} == {f"http://h{n}" for n in range(40)}


def test_the_stamp_changes_with_the_content_alone(tmp_path: Path) -> None:
    """A look that changes nothing leaves no trace; a change does, from the first on."""
    file = StateFile(tmp_path / "replicas.json")
    stamps = [file.stamp()]
    for number in (None, 1, 1, 2):
        file.change(lambda now, n=number: now if n is None else now.adding(member(n)))
        stamps.append(file.stamp())
    assert stamps[0] is stamps[1] is None
    assert stamps[2] == stamps[3] != stamps[4]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "malformed"),
        ('{"schema_version": 2}', "schema_version"),
        ('{"added": [{"model": "m", "replica": {"url": "h"}}]}', "must be http"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused_and_stays(
    text: str, problem: str, tmp_path: Path
) -> None:
    """It is told in one line, and no command overwrites it."""
    path = tmp_path / "replicas.json"
    path.write_text(text)
    with pytest.raises(StateFileError, match=rf"^[^\n]*{problem}[^\n]*$"):
        StateFile(path).change(lambda now: now.adding(member(1)))
    assert path.read_text() == text


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    """A path nobody can write to is one line."""
    with pytest.raises(StateFileError, match="check the folder"):
        StateFile(tmp_path / "none" / "replicas.json").change(lambda now: now)


def test_the_form_is_as_documented(tmp_path: Path) -> None:
    """Version, additions with the replica as in the router's file, addresses sent away."""
    path = tmp_path / "replicas.json"
    file = StateFile(path)
    file.change(lambda now: now.adding(member(1, "L4")))
    file.change(lambda now: now.without("http://h2", is_named_elsewhere=True))
    assert json.loads(path.read_text()) == {
        "schema_version": 1,
        "added": [{"model": "m", "replica": {"url": "http://h1", "offer": "L4"}}],
        "withheld": ["http://h2"],
    }
