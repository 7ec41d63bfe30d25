"""A client with a wrong key is told in the server's log too."""

import logging

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from finetune.deployment.refused_keys import RefusedKeys, fingerprint

PUBLIC = serialization.PublicFormat
KEY = (
    b"ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBLOFnFG4nsiA1z42e9SQFI7CQ5wvNUa93EzyJ4JN"
    b"1a/MnJKo7XTj4AN3k0keST0iJFQVUHmvpX8TucVYqoHwZCA1pmgwC0al87J3UJgEauFzCcvmEygImzZNsd6fs5zMXg=="
)
KEY_FINGERPRINT = "SHA256:+TKVooWOOX+D6Fd+Z6jfdeEEu94QX84Gk7rIN7YKhJU"
"""Both as OpenSSH 9.2's `ssh-keygen` wrote and showed them."""


def public_key():
    """Return a new public key of the kind that clients have."""
    return ec.generate_private_key(ec.SECP384R1()).public_key()


def flowers_line(key):
    """Return what the SuperLink logs of a key that it does not know."""
    pem = key.public_bytes(serialization.Encoding.PEM, PUBLIC.SubjectPublicKeyInfo)
    return (
        "[/v1/fleet/activate-node][ApiError:301] Attempted to register SuperNode with public "
        f"key: {pem!r}, exception: No SuperNode found with the given public key."
    )


def test_an_unknown_key_is_told_by_its_fingerprint_and_not_each_time(caplog):
    """The first, second and fourth try of five; other lines of the log are nothing."""
    watch, key = RefusedKeys(), public_key()
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            watch(flowers_line(key))
            watch("[Fleet.ActivateNode] Activated node_id=5")
    told = [record.getMessage() for record in caplog.records]
    assert ["tries=1 " in told[0], "tries=2 " in told[1], "tries=4 " in told[2]] == [True] * 3
    assert len(told) == 3
    assert list(watch.num_tries.values()) == [5]
    assert "SHA256:" in told[0]


def test_a_new_key_for_each_try_fills_neither_log_nor_memory(caplog, monkeypatch):
    """Beyond so many, keys are counted together."""
    monkeypatch.setattr("finetune.deployment.refused_keys._MOST_KEYS", 2)
    watch = RefusedKeys()
    for _ in range(7):
        watch(flowers_line(public_key()))
    assert sorted(watch.num_tries.values()) == [1, 1, 5]
    assert len(caplog.records) == 2 + 3


def test_the_fingerprint_is_the_one_that_ssh_keygen_shows():
    """So that it can be compared with the client's own file."""
    key = serialization.load_ssh_public_key(KEY)
    pem = key.public_bytes(serialization.Encoding.PEM, PUBLIC.SubjectPublicKeyInfo)
    assert fingerprint(repr(pem)) == KEY_FINGERPRINT
    assert fingerprint("b'no key'") == fingerprint("b'") == "unreadable"
