"""A secret of 32 bytes cut into shares, of which any `threshold` give it back and fewer nothing.

Source: Shamir 1979, "How to share a secret" (CACM 22, 11).
"""

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, combinations, islice

PRIME = (1 << 256) + 297
"""The least prime above every secret of 32 bytes; shares are numbers below it."""

SECRET_BYTES = 32
SHARE_BYTES = 33

_MOST_TRIES = 1000
"""Sets of shares that are tried for one secret."""


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


def right_shares(
    shares: Mapping[int, bytes],
    threshold: int,
    is_right: Callable[[bytes], bool],
    *,
    distrusted: Collection[int] = (),
) -> tuple[bytes, list[int]] | None:
    """Return the secret and whose shares are not of it, or None where no right ones are found.

    A few sets of `threshold` shares are tried: one false share among more than `threshold` is always
    left out, several where they stand together or the sets are few. A single liar is found for sure;
    some who lie together can make honest holders look false, but never give another secret.

    Args:
        shares: By their points.
        threshold: Shares that give the secret.
        is_right: Whether a secret is the one that was promised.
        distrusted: Points whose shares are tried last.
    """
    whole = _secret_of(shares) if len(shares) >= threshold else None
    if whole is not None and is_right(whole):
        return whole, []
    points = sorted(shares, key=lambda point: (point in distrusted, point))
    windows = ([*points, *points][start : start + threshold] for start in range(len(points)))
    for chosen in islice(chain(windows, combinations(points, threshold)), _MOST_TRIES):
        if len(chosen) < threshold:
            return None
        secret = _secret_of({point: shares[point] for point in chosen})
        if secret is None or not is_right(secret):
            continue
        rest = {point: shares[point] for point in chosen[1:]}
        false = [
            point
            for point in points
            if point not in chosen and _secret_of(rest | {point: shares[point]}) != secret
        ]
        return secret, false
    return None


def _secret_of(shares: Mapping[int, bytes]) -> bytes | None:
    try:
        return reconstruct(shares)
    except ValueError:
        return None


def _value_at(point: int, coefficients: Sequence[int]) -> int:
    """Return the polynomial's value; the highest degree stands first."""
    value = 0
    for coefficient in coefficients:
        value = (value * point + coefficient) % PRIME
    return value
