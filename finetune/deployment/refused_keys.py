"""What the SuperLink says of clients that it does not let in, told in the server's own log."""

import ast
import base64
import binascii
import hashlib
import logging
import re
from collections import Counter

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

logger = logging.getLogger(__name__)

_UNKNOWN_KEY = re.compile(r"public key: (b(['\"]).*\2), exception: No SuperNode found")
"""Flower 1.41's words, `superlink/servicer/fleet/fleet_handlers.py`."""

_MOST_KEYS = 100
"""Keys that are told apart; who makes a new one for each try fills neither log nor memory."""


class RefusedKeys:
    """Reads the SuperLink's log for keys that are no client's.

    A client tries every few seconds: its first, second, fourth, eighth ... try is told.
    """

    def __init__(self) -> None:
        """Begin with no try seen."""
        self.num_tries: Counter[str] = Counter()
        """Tries so far, by the key's fingerprint."""

    def __call__(self, line: str) -> None:
        """Look at one line."""
        found = _UNKNOWN_KEY.search(line)
        if found is None:
            return
        key = fingerprint(found[1])
        if key not in self.num_tries and len(self.num_tries) >= _MOST_KEYS:
            key = "another"
        self.num_tries[key] += 1
        number = self.num_tries[key]
        if number & (number - 1) == 0:
            logger.warning(
                "a client is not let in key=%s tries=%d hint=%r",
                key,
                number,
                "no clients/NAME.pub here is of this key; compare with `ssh-keygen -lf "
                "clients/NAME.pub`, put the client's own there and start the server again",
            )


def fingerprint(literal: str) -> str:
    """Return the fingerprint of a key that a log shows as Python's bytes, as `ssh-keygen -l` has it.

    What is no key is called so.

    Source: OpenSSH, `ssh-keygen(1)`: SHA-256 of the key's wire form in base64 without padding.
    """
    try:
        key = serialization.load_pem_public_key(ast.literal_eval(literal))
        line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        digest = hashlib.sha256(binascii.a2b_base64(line.split()[1])).digest()
    except (ValueError, TypeError, SyntaxError, UnsupportedAlgorithm):
        return "unreadable"
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
