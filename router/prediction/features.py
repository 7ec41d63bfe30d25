"""A prompt as hashed words and word pairs, beside a few dense cues.

The same function serves training, evaluation and the live router. It is deterministic over processes
and machines: words are hashed as polynomials of their UTF-8 bytes modulo 2**64, never by Python's
salted `hash`. Hashed features hold no text, yet buckets can be guessed from guessed words: a log of
them is not anonymous, only without the words.

Tokens are runs of letters, single digits and single other signs, lower-cased; each ideograph is a token
of its own. Long prompts count with their first and last `CAP_CHARACTERS`, so the work is bounded: all of
it is in a few passes over an array of bytes, about 0.3 ms for 8,000 characters.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from router.prediction.cues import cues_of

CAP_CHARACTERS: Final = 4_000
"""Of the beginning and of the end; what lies between is not looked at."""
BUCKET_BITS: Final = 16
NUM_BUCKETS = 1 << BUCKET_BITS
FEATURES_VERSION: Final = 1
"""Rises with every change that gives a text other features: fitted files name the one they need."""

_MOST_BYTES = 4 * (2 * CAP_CHARACTERS + 1)
_BASE = 0x9E3779B97F4A7C15
_POWERS = np.cumprod(np.array([1] + [_BASE] * (_MOST_BYTES - 1), dtype=np.uint64), dtype=np.uint64)
_INVERSES = np.cumprod(
    np.array([1] + [pow(_BASE, -1, 1 << 64)] * (_MOST_BYTES - 1), dtype=np.uint64), dtype=np.uint64
)
_START, _END = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
_PAIR_FACTORS = (np.uint64(0xE7037ED1A0B428DB), np.uint64(0xC2B2AE3D27D4EB4F))
_LETTER, _SINGLE = 1, 2
_KINDS = np.array(
    [
        _LETTER if code >= 0x80 or chr(code).isalpha() else _SINGLE * (not chr(code).isspace())
        for code in range(256)
    ],
    dtype=np.uint8,
)
"""Kind of every byte; 0 for white space."""


@dataclass(frozen=True, slots=True)
class HashedFeatures:
    """What the predictor sees of a prompt; sparse, and without any text."""

    indices: NDArray[np.uint32]
    """Buckets that are not empty, rising. Shape: (num_filled,)."""
    values: NDArray[np.float32]
    """Signed logarithms of their counts. Shape: (num_filled,)."""
    cues: NDArray[np.float32]
    """Dense cues in the order of `cues.CUES`. Shape: (num_cues,)."""
    embedding: NDArray[np.float32] | None = None
    """A sentence embedding of the text, where one was fetched; no log keeps it. Shape: (length,)."""


def hash_text(text: str) -> HashedFeatures:
    """Return the features of a prompt; any string has some, the empty one included."""
    text = capped(text)
    content = text.encode("utf-8", "surrogatepass")
    codes = np.frombuffer(content.lower(), dtype=np.uint8)
    buckets, signs = _hashed_grams(codes, *_token_bounds(codes))
    sums = np.bincount(buckets, weights=signs, minlength=NUM_BUCKETS)
    indices = np.flatnonzero(sums != 0)  # of booleans it takes a tenth of the time
    values = sums[indices]
    return HashedFeatures(
        indices.astype(np.uint32),
        (np.sign(values) * np.log1p(np.abs(values))).astype(np.float32),
        cues_of(text, content),
    )


def grams_of(text: str) -> list[tuple[str, int, float]]:
    """Return every word and pair of the text as `hash_text` sees it: its words, bucket and sign."""
    content = capped(text).encode("utf-8", "surrogatepass").lower()
    codes = np.frombuffer(content, dtype=np.uint8)
    starts, ends = _token_bounds(codes)
    buckets, signs = _hashed_grams(codes, starts, ends)
    tokens = [content[start:end] for start, end in zip(starts, ends, strict=True)]
    words = ["^", *(one.decode("utf-8", "replace") for one in tokens), "$"]
    names = words[1:-1] + [f"{one} {other}" for one, other in pairwise(words)]
    return list(zip(names, buckets.tolist(), signs.tolist(), strict=True))


def capped(text: str) -> str:
    """Return the part of a prompt that counts: its beginning and its end."""
    text = text.strip()
    if len(text) <= 2 * CAP_CHARACTERS:
        return text
    return f"{text[:CAP_CHARACTERS]} {text[-CAP_CHARACTERS:]}"


def _token_bounds(codes: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where each token begins and where it has ended."""
    kinds = _KINDS[codes]
    is_letter = kinds == _LETTER
    goes_on = np.zeros(len(codes) + 1, dtype=bool)
    goes_on[1:-1] = is_letter[1:] & is_letter[:-1]
    # The first bytes of ideographs, kana and hangul: three bytes each.
    leads = np.flatnonzero((codes >= 0xE3) & (codes <= 0xED))
    goes_on[leads] = goes_on[np.minimum(leads + 3, len(codes))] = False
    is_filled = kinds != 0
    starts = np.flatnonzero(is_filled & ~goes_on[:-1])
    return starts, np.flatnonzero(is_filled & ~goes_on[1:]) + 1


def _hashed_grams(
    codes: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the bucket and the sign of every word and every pair of neighbours.

    A word's hash is the difference of two prefix sums, moved to the front by a power's inverse.
    """
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum((codes.astype(np.uint64) + np.uint64(1)) * _POWERS[: len(codes)], out=sums[1:])
    hashes = np.empty(len(starts) + 2, dtype=np.uint64)
    hashes[0], hashes[-1] = _START, _END
    hashes[1:-1] = _mix((sums[ends] - sums[starts]) * _INVERSES[starts])
    pairs = hashes[:-1] * _PAIR_FACTORS[0] + hashes[1:] * _PAIR_FACTORS[1]
    mixed = _mix(np.concatenate((hashes[1:-1], pairs)))
    buckets = (mixed >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
    return buckets, 1.0 - 2.0 * (mixed & np.uint64(1)).astype(np.float64)


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every input bit over all output bits; arithmetic is modulo 2**64.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
