"""Keys and masks: agreement, derivation, encryption. The edge to `cryptography`."""

import hashlib
import os

import numpy as np
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from finetune.errors import SecureSumError
from finetune.trust.secure_sum.fixed_point import FixedPoint, Masked

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16


def public_bytes(private: X25519PrivateKey) -> bytes:
    """Return the public half of a key, 32 bytes."""
    return private.public_key().public_bytes_raw()


def agree(private: X25519PrivateKey, public: bytes, *, purpose: bytes) -> bytes:
    """Return a key of 32 bytes that both holders derive, by X25519 (RFC 7748) and HKDF (RFC 5869).

    Args:
        private: Our half.
        public: The other's half.
        purpose: What the key is for, and in which session: each gives another key.

    Raises:
        SecureSumError: If `public` is no point that gives a secret.
    """
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        raise SecureSumError("a public key gives no shared secret; the round is lost") from None
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=b"motley secure sum " + purpose).derive(shared)


def mask(seed: bytes, *, num_entries: int, grid: FixedPoint) -> Masked:
    """Return the whole numbers that a seed stands for: AES-256 in counter mode over zeros.

    A seed is used for one mask only, so the counter starts at zero.
    """
    encryptor = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    stream = encryptor.update(bytes(num_entries * grid.bits // 8))
    return np.frombuffer(stream, grid.dtype)


def seal(key: bytes, plaintext: bytes, *, context: bytes) -> bytes:
    """Return nonce and ciphertext; `context` must be the same to open it (AES-256-GCM)."""
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, context)


def open_sealed(key: bytes, sealed: bytes, *, context: bytes) -> bytes:
    """Return what was sealed.

    Raises:
        SecureSumError: If it was changed on the way, or sealed in another context.
    """
    try:
        return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):
        raise SecureSumError("a share was changed on the way or is of another session") from None


def commitment(session: bytes, client: int, secret: bytes) -> bytes:
    """Return a digest that binds to a random secret of 32 bytes and does not tell it."""
    return hashlib.sha256(
        b"motley secure sum mask" + session + client.to_bytes(4, "big") + secret
    ).digest()


def sign(private: Ed25519PrivateKey, content: bytes) -> bytes:
    """Return a signature, 64 bytes (RFC 8032)."""
    return private.sign(content)


def verify(public: bytes, signature: bytes, content: bytes) -> bool:
    """Return whether the holder of `public`, 32 bytes, signed `content`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True
