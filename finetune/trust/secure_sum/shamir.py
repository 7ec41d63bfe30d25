"""A secret of 32 bytes cut into shares, of which any `threshold` give it back and fewer nothing.

Source: Shamir 1979, "How to share a secret" (CACM 22, 11).
"""

import secrets
from collections.abc import Mapping, Sequence

PRIME = (1 << 256) + 297
"""The least prime above every secret of 32 bytes; shares are numbers below it."""

SECRET_BYTES = 32
SHARE_BYTES = 33


def share(secret: bytes, *, points: Sequence[int], threshold: int) -> dict[int, bytes]:
    """Return a share of `secret` for each point.

    The shares are values of a polynomial of degree `threshold - 1` with random coefficients from
    the system's entropy, whose value at 0 is the secret.

    Args:
        secret: 32 bytes.
        points: Different numbers from 1 on, one for each holder.
        threshold: Shares needed to give the secret back, 1 to the number of points.

    Raises:
        ValueError: If an argument is out of range.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES} bytes, not {len(secret)}")
    if len(set(points)) != len(points) or not all(0 < point < PRIME for point in points):
        raise ValueError("points must be different and from 1 on")
    if not 1 <= threshold <= len(points):
        raise ValueError(f"threshold {threshold} of {len(points)} shares; give 1 to their number")
    coefficients = [secrets.randbelow(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret, "big"))
    return {point: _value_at(point, coefficients).to_bytes(SHARE_BYTES, "big") for point in points}


def reconstruct(shares: Mapping[int, bytes]) -> bytes:
    """Return the secret from at least `threshold` of its shares, by their points.

    Fewer, or shares of different secrets, give another value or none: compare with what is known of
    the secret.

    Raises:
        ValueError: If the shares do not give 32 bytes.

    Source: Lagrange interpolation at 0 over the integers modulo a prime.
    """
    total = 0
    for point, value in shares.items():
        weight = 1
        for other in shares:
            if other != point:
                weight = weight * other * pow(other - point, -1, PRIME) % PRIME
        total = (total + int.from_bytes(value, "big") * weight) % PRIME
    try:
        return total.to_bytes(SECRET_BYTES, "big")
    except OverflowError:
        raise ValueError("the shares do not belong to one secret") from None


def _value_at(point: int, coefficients: Sequence[int]) -> int:
    """Return the polynomial's value; the highest degree stands first."""
    value = 0
    for coefficient in coefficients:
        value = (value * point + coefficient) % PRIME
    return value
