"""The key that a command sends."""

import pytest

from planner.errors import DocumentError
from planner.key_file import read_key


def test_the_first_key_is_read(tmp_path):
    """Comments and empty lines are skipped; a list of keys gives its first."""
    (tmp_path / "keys").write_text("# ours\n\n first \nsecond\n")
    assert read_key(tmp_path / "keys") == "first"


@pytest.mark.parametrize("content", ["", "# none\n", "two words\n", "schlüssel\n"])
def test_a_file_without_a_key_is_refused(tmp_path, content):
    """The line names the file and never quotes what is in it."""
    (tmp_path / "keys").write_text(content)
    with pytest.raises(DocumentError, match="begins with no key") as caught:
        read_key(tmp_path / "keys")
    assert content.strip() not in str(caught.value) or not content.strip()


def test_a_file_that_is_not_there_is_named(tmp_path):
    """Nothing is guessed."""
    with pytest.raises(DocumentError, match="no such file"):
        read_key(tmp_path / "keys")
