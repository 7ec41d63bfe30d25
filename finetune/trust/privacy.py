"""Differential privacy of whole clients: each change clipped, noise added once to their sum.

The server adds the noise and is trusted with the single changes, unless they come as a secure sum.
Noise is float64 from numpy's generator, which no cryptographic source backs: whoever sees the exact
bits of many published adapters is outside the model (Mironov 2012, CCS, on least significant bits).

Shape suffixes: K clients, N entries of the whole adapter.
"""

import secrets

import numpy as np
from numpy.typing import NDArray

from finetune.trust.clip import clip

Rows = NDArray[np.float64]
Vector = NDArray[np.float64]


def noisy_mean(
    changes_KN: Rows,
    *,
    clip_norm: float,
    noise_multiplier: float,
    num_expected: int,
    generator: np.random.Generator | None = None,
    is_sent_N: NDArray[np.bool_] | None = None,
) -> tuple[Vector, NDArray[np.bool_]]:
    """Return the private mean of the clients' changes, and which were clipped.

    All clients count the same, and the sum is divided by the clients that were asked, not by those
    that answered: the number that answered is itself private, and weights would change how far one
    client can move the sum.

    Args:
        changes_KN: The clients' changes. Shape: (clients, entries).
        clip_norm: Longest change of one client; the sum's sensitivity.
        noise_multiplier: Deviation of the noise on each entry of the sum, in clipping norms.
        num_expected: Clients that were asked.
        generator: Source of the noise; None seeds one from the system's entropy.
        is_sent_N: The entries that may change at all, chosen without looking at any client's data;
            the others get no noise. None is all. Shape: (entries,).

    Raises:
        ValueError: If more clients answered than were asked, or a bound is not positive.

    Source: McMahan et al. 2018 (arXiv 1710.06963), algorithm 1, with the fixed denominator.
    """
    if not noise_multiplier > 0:
        raise ValueError(f"noise_multiplier {noise_multiplier} hides nothing; give a positive one")
    if len(changes_KN) > num_expected:
        raise ValueError(f"{len(changes_KN)} clients answered, {num_expected} were asked")
    clipped_KN, is_clipped_K = clip(changes_KN, most_norm=clip_norm)
    noise_N = noise(clipped_KN.shape[1], clip_norm * noise_multiplier, generator=generator)
    if is_sent_N is not None:
        noise_N = np.where(is_sent_N, noise_N, 0.0)
    return (clipped_KN.sum(axis=0) + noise_N) / num_expected, is_clipped_K


def noise(
    num_entries: int, deviation: float, *, generator: np.random.Generator | None = None
) -> Vector:
    """Return Gaussian noise for a sum, its own for each call where no generator is given."""
    source = generator or np.random.default_rng(secrets.randbits(256))
    return source.normal(0.0, deviation, num_entries)
