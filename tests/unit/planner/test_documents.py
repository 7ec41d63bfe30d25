"""Reading and writing documents: what is refused, and that nothing is left half-written."""

from typing import Annotated

import pytest
from pydantic import Field

from planner.config import StrictModel
from planner.documents import check_apart, check_writable, read_document, write_atomically
from planner.errors import DocumentError


class Pair(StrictModel):
    first: int
    second: float = 0.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("first: 1\nfirst: 2\n", "the key 'first' is there twice"),
        ("first: 1\nfirts: 2\n", "firts: unknown key; near: first; remove it"),
        ("first: 1\nzzzzz: 2\n", "zzzzz: unknown key; remove it"),
        ("second: 2\n", "first: is required"),
        ("first: [1\n", "is malformed"),
        ("first: 2024-99-99\n", "is malformed"),
        ("[" * 20_000, "is malformed"),
        ("", "holds no mapping"),
        ("first: 1\nsecond: .nan\n", "finite number (got nan)"),
        ("first: one\n", "got 'one'"),
        ("third: 1\n", "(and 1 more problem)"),
        ("third: 1\nfourth: 1\n", "(and 2 more problems)"),
    ],
)
def test_bad_yaml_is_one_line(tmp_path, content, message):
    """Every broken document ends as one line that names the file and the problem."""
    path = tmp_path / "pair.yaml"
    path.write_text(content)
    with pytest.raises(DocumentError) as caught:
        read_document(path, Pair)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Entries(StrictModel):
    """A list of at least one number above 0."""

    entries: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("entries: []\n", "entries: holds 0; give at least 1"),
        ("entries: [0]\n", "entries.0: Input should be greater than 0 (got 0)"),
        ("entries: 3\n", "entries: must be a list (got 3)"),
    ],
)
def test_a_wrong_entry_is_one_problem(tmp_path, content, message):
    """A list that is too short only because an entry is wrong is not told again."""
    path = tmp_path / "entries.yaml"
    path.write_text(content)
    with pytest.raises(DocumentError) as caught:
        read_document(path, Entries)
    assert str(caught.value) == f"{path}: {message}"


def test_a_key_twice_in_json_is_refused(tmp_path):
    """JSON's own reader would keep the last of them."""
    path = tmp_path / "pair.json"
    path.write_text('{"first": 1, "first": 2}')
    with pytest.raises(DocumentError, match="'first' is there twice"):
        read_document(path, Pair)


def test_merged_yaml_keys_may_be_overridden(tmp_path):
    """A key beside a merge is not there twice."""
    path = tmp_path / "pair.yaml"
    path.write_text("<<: {first: 1, second: 3}\nfirst: 2\n")
    assert read_document(path, Pair) == Pair(first=2, second=3)


def test_writing_onto_a_folder_leaves_nothing_behind(tmp_path):
    """A failed write is one line, and its temporary file is gone."""
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(DocumentError, match="is a folder"):
        write_atomically(target, "text")
    with pytest.raises(DocumentError, match="is a folder"):
        check_writable(target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_missing_folder_is_said_before_the_work(tmp_path):
    """The folder of an output file must exist."""
    with pytest.raises(DocumentError, match=r"there is no folder .*; create it"):
        check_writable(tmp_path / "nowhere" / "plan.json")


def test_an_output_that_is_an_input_is_said_before_the_work(tmp_path):
    """By its own name, by another spelling, through a soft link, a hard link, or not there yet."""
    read, other = tmp_path / "fleet.yaml", tmp_path / "other.yaml"
    check_apart(read, (read.with_name("a"), other))
    names = [read, tmp_path / "x" / ".." / "fleet.yaml", tmp_path / "soft", tmp_path / "hard"]
    with pytest.raises(DocumentError, match="both read and to be written; name another"):
        check_apart(read, (read,))
    read.write_text("text")
    names[2].symlink_to(read)
    names[3].hardlink_to(read)
    for name in names:
        with pytest.raises(DocumentError, match=f"{name}: is both read"):
            check_apart(name, (other, read))


@pytest.mark.parametrize("name", ["/proc/plan.json", "n" * 300])
def test_a_folder_that_takes_no_file_is_said_before_the_work(tmp_path, name):
    """The check makes the file it would need, and leaves nothing."""
    with pytest.raises(DocumentError, match="cannot be written"):
        check_writable(tmp_path / name)
    check_writable(tmp_path / "plan.json")
    assert not list(tmp_path.iterdir())
