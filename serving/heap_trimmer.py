"""Memory that the C library keeps in its heap, free, given back to the system from time to time.

oneDNN compiles a product when it first meets a layer's shape and a count of rows, half a megabyte
each, among tensors of requests that come and go: the heap grows for hours while what is in use does
not. By itself glibc returns only what is free at the heap's end; `malloc_trim` returns every free
page.

Source: malloc_trim(3), glibc 2.8 and later.
"""

import ctypes
import logging
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_TRIM_SECONDS = 30.0
"""Between two times; one takes milliseconds."""


def _malloc_trim() -> Callable[[], object]:
    """Return what gives free pages back; nothing where the C library has no such function."""
    try:
        function = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        logger.info("free heap memory is kept reason=%r", "the C library has no malloc_trim")
        return lambda: None
    return lambda: function(ctypes.c_size_t(0))


class HeapTrimmer:
    """Trims the heap when asked, and not more often than is worth it."""

    def __init__(
        self,
        trim: Callable[[], object] | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what trims, by default the C library's function, and a clock in seconds."""
        self._trim = trim or _malloc_trim()
        self._monotonic = monotonic
        self._due_at = float("-inf")

    def trim_if_due(self) -> None:
        """Give free memory back, if that was not done lately."""
        start = self._monotonic()
        if start < self._due_at:
            return
        self._trim()
        self._due_at = start + _TRIM_SECONDS
        logger.debug("heap trimmed seconds=%.4f", self._monotonic() - start)
