"""`Retry-After`: how long a busy replica asks to be left alone."""

import math
from collections.abc import Iterable

from router.exchange import header

DEFAULT_SECONDS = 1.0
"""Where a 429 does not say, or names a date."""


def retry_after_seconds(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Return the seconds that a 429 asks for, at least 0."""
    lowered = ((name.lower(), value) for name, value in headers)
    try:
        seconds = float(header(lowered, b"retry-after"))
    except ValueError:
        return DEFAULT_SECONDS
    return max(0.0, seconds) if math.isfinite(seconds) else DEFAULT_SECONDS
