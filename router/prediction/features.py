"""A prompt as hashed words and word pairs, beside a few dense cues.

The same function serves training, evaluation and the live router. It is deterministic over processes
and machines: the hash is CRC-32 of a token's UTF-8 bytes, mixed by multiplication, never Python's
salted `hash`. Hashed features hold no text, yet buckets can be guessed from guessed words: a log of
them is not anonymous, only without the words.

Tokens are runs of letters, single digits and single other signs, lower-cased; each ideograph is a token
of its own. Long prompts count with their first and last `CAP_CHARACTERS`, so the work is bounded.
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from router.prediction.cues import cues_of

CAP_CHARACTERS: Final = 4_000
"""Of the beginning and of the end; what lies between is not looked at."""
BUCKET_BITS: Final = 16
NUM_BUCKETS = 1 << BUCKET_BITS
FEATURES_VERSION: Final = 1
"""Rises with every change that gives a text other features: fitted files name the one they need."""

_TOKENS = re.compile(rb"[\xe3-\xed][\x80-\xbf]{2}|[a-z\x80-\xff]+|\d|[^\sa-z\d\x80-\xff]")
_START, _END = crc32(b"start of prompt"), crc32(b"end of prompt")
_PAIR_FACTORS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))


@dataclass(frozen=True, slots=True)
class HashedFeatures:
    """What the predictor sees of a prompt; sparse, and without any text."""

    indices: NDArray[np.uint32]
    """Buckets that are not empty, rising. Shape: (num_filled,)."""
    values: NDArray[np.float32]
    """Signed logarithms of their counts. Shape: (num_filled,)."""
    cues: NDArray[np.float32]
    """Dense cues in the order of `cues.CUES`. Shape: (num_cues,)."""


def hash_text(text: str) -> HashedFeatures:
    """Return the features of a prompt; any string has some, the empty one included."""
    text = _capped(text)
    content = text.encode("utf-8", "surrogatepass")
    buckets, signs = _hashed_grams(_TOKENS.findall(content.lower()))
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
    tokens = _TOKENS.findall(_capped(text).encode("utf-8", "surrogatepass").lower())
    buckets, signs = _hashed_grams(tokens)
    words = ["^", *(one.decode("utf-8", "replace") for one in tokens), "$"]
    names = words[1:-1] + [f"{one} {other}" for one, other in pairwise(words)]
    return list(zip(names, buckets.tolist(), signs.tolist(), strict=True))


def _capped(text: str) -> str:
    text = text.strip()
    if len(text) <= 2 * CAP_CHARACTERS:
        return text
    return f"{text[:CAP_CHARACTERS]} {text[-CAP_CHARACTERS:]}"


def _hashed_grams(tokens: list[bytes]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the bucket and the sign of every word and every pair of neighbours."""
    hashes = np.fromiter(
        (_START, *map(crc32, tokens), _END), dtype=np.uint64, count=len(tokens) + 2
    )
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
