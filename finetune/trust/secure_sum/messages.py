"""The seven messages of a secure sum as bytes.

Each begins with its kind, the session and the client that sends or gets it, so that a message of
another round, client or stage is refused before it is read. All numbers are big-endian.
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum

from finetune.errors import SecureSumError
from finetune.trust.secure_sum.keys import KEY_BYTES, NONCE_BYTES, TAG_BYTES
from finetune.trust.secure_sum.shamir import SHARE_BYTES

SESSION_BYTES = 16
SEALED_BYTES = NONCE_BYTES + 2 * SHARE_BYTES + TAG_BYTES
COMMITMENT_BYTES = 32
SIGNATURE_BYTES = 64
PUBLIC_KEYS_BYTES = 2 * KEY_BYTES + SIGNATURE_BYTES
_HEAD = struct.Struct(f">B{SESSION_BYTES}sI")


class Kind(IntEnum):
    """What a message is; odd ones go to the server, even ones to a client."""

    KEYS = 1
    ROSTER = 2
    SHARES = 3
    INBOX = 4
    MASKED = 5
    SURVIVORS = 6
    REVEALED = 7


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """A client's public keys of this session.

    Attributes:
        sealing: To seal shares for it, 32 bytes.
        masking: To agree on masks with it, 32 bytes.
        signature: Of both, by the key that its peers know it by, 64 bytes.
    """

    sealing: bytes
    masking: bytes
    signature: bytes


def pack(kind: Kind, session: bytes, client: int, body: bytes) -> bytes:
    """Return a message."""
    return _HEAD.pack(kind, session, client) + body


def unpack(message: bytes, kind: Kind, session: bytes, *, client: int | None = None) -> bytes:
    """Return a message's body.

    Raises:
        SecureSumError: If it is not of this kind, session and client.
    """
    if len(message) < _HEAD.size:
        raise SecureSumError(f"a message of {len(message)} bytes is cut short; send it anew")
    found, found_session, found_client = _HEAD.unpack_from(message)
    if found_session != session:
        raise SecureSumError("a message belongs to another session; it does not count in this one")
    if found != kind:
        raise SecureSumError(f"a message is of kind {found}, {kind.name} ({kind}) is awaited")
    if client is not None and found_client != client:
        raise SecureSumError(f"a message is of client {found_client}, not {client}")
    return message[_HEAD.size :]


def pack_keys(keys: PublicKeys) -> bytes:
    """Return a client's public keys as a body."""
    return keys.sealing + keys.masking + keys.signature


def unpack_keys(body: bytes) -> PublicKeys:
    """Return a client's public keys.

    Raises:
        SecureSumError: If the length is another.
    """
    if len(body) != PUBLIC_KEYS_BYTES:
        raise SecureSumError(f"{len(body)} bytes are not two signed public keys")
    ends = KEY_BYTES, 2 * KEY_BYTES
    return PublicKeys(body[: ends[0]], body[ends[0] : ends[1]], body[ends[1] :])


def pack_table(rows: Mapping[int, bytes]) -> bytes:
    """Return values of one length by client, as a body."""
    return b"".join(struct.pack(">I", client) + rows[client] for client in sorted(rows))


def unpack_table(body: bytes, *, value_bytes: int) -> dict[int, bytes]:
    """Return values of one length by client.

    Raises:
        SecureSumError: If the length does not come out even or a client stands twice.
    """
    row_bytes = 4 + value_bytes
    if len(body) % row_bytes:
        raise SecureSumError(f"{len(body)} bytes are no table of {row_bytes} bytes a row")
    starts = range(0, len(body), row_bytes)
    rows = {
        int.from_bytes(body[start : start + 4], "big"): body[start + 4 : start + row_bytes]
        for start in starts
    }
    if len(rows) != len(starts):
        raise SecureSumError("a client stands twice in a table")
    return rows


def pack_clients(clients: Iterable[int]) -> bytes:
    """Return a set of clients as a body."""
    return pack_table(dict.fromkeys(clients, b""))


def unpack_clients(body: bytes) -> frozenset[int]:
    """Return a set of clients.

    Raises:
        SecureSumError: As `unpack_table`.
    """
    return frozenset(unpack_table(body, value_bytes=0))
