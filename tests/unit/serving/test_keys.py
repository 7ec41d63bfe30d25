"""API keys: who gets in, what they may do, and that nothing of them stays readable."""

import pickle

import pytest

from serving.errors import AuthenticationError, ForbiddenError, KeyFileError
from serving.keys import KeyRing, read_keys

USER, ADMIN = "sk-user-one", "sk-admin-one"


def test_without_keys_everybody_may_do_everything():
    """An endpoint on a laptop asks for nothing."""
    KeyRing().check(None, needs_admin=True)


@pytest.mark.parametrize("key", [USER, "sk-user-two", ADMIN])
def test_every_known_key_opens_the_endpoint(key):
    """Each of several user keys, and an admin's."""
    KeyRing([USER, "sk-user-two"], [ADMIN]).check(f"Bearer {key}", needs_admin=False)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", USER, f"Basic {USER}", f"Bearer {USER}x", "Bearer sk-user-on"],
)
def test_anything_else_is_refused(header):
    """A missing header, another scheme, and a key that is nearly right."""
    with pytest.raises(AuthenticationError) as refusal:
        KeyRing([USER], [ADMIN]).check(header, needs_admin=False)
    assert "sk-" not in str(refusal.value)


def test_admin_work_needs_an_admins_key():
    """A user's key is known and does not suffice, whether or not there are admin keys."""
    KeyRing([USER], [ADMIN]).check(f"bearer {ADMIN}", needs_admin=True)
    for admins in ([ADMIN], []):
        with pytest.raises(ForbiddenError, match="needs an admin key"):
            KeyRing([USER], admins).check(f"Bearer {USER}", needs_admin=True)


def test_admin_keys_alone_close_the_endpoint_too():
    """Whoever sets a key means the endpoint to be closed."""
    with pytest.raises(AuthenticationError):
        KeyRing([], [ADMIN]).check(None, needs_admin=False)


def test_keys_do_not_stay_in_memory():
    """Only digests are kept."""
    assert b"sk-" not in pickle.dumps(KeyRing([USER], [ADMIN]).__dict__)


def test_keys_come_from_a_file_and_from_the_environment(tmp_path):
    """One a line or separated by commas; comments and empty lines are skipped."""
    path = tmp_path / "keys"
    path.write_text(f"# team a\n\n {USER} \n{ADMIN}\n")
    path.chmod(0o600)
    assert read_keys(path, "one, two,") == [USER, ADMIN, "one", "two"]
    assert read_keys(None, None) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "holds no key"), ("# none\n", "holds no key"), ("fine\nse cret\n", "line 2 is no key")],
)
def test_a_file_of_no_keys_is_refused_without_quoting_it(tmp_path, content, message):
    """An endpoint that was to be closed never starts open, and no key is shown."""
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(KeyFileError, match=message) as refusal:
        read_keys(path, None)
    assert "cret" not in str(refusal.value)


def test_a_missing_file_and_a_malformed_variable_are_one_line(tmp_path):
    """Both say what to do."""
    with pytest.raises(KeyFileError, match="name a file of keys"):
        read_keys(tmp_path / "nowhere", None)
    with pytest.raises(KeyFileError, match="white space"):
        read_keys(None, "a key")


def test_a_file_that_others_can_read_is_told(tmp_path, caplog):
    """One warning with the remedy, and no key in it."""
    path = tmp_path / "keys"
    path.write_text(USER)
    path.chmod(0o644)
    read_keys(path, None)
    assert "chmod 600" in caplog.text
    assert USER not in caplog.text
