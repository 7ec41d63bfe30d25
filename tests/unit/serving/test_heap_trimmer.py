"""Free memory of the heap goes back to the system from time to time."""

import ctypes
import itertools

from serving.heap_trimmer import HeapTrimmer, _malloc_trim


def test_the_heap_is_trimmed_now_and_then():
    """At first at once, then not before half a minute has passed."""
    moments, trims = iter([0.0, 0.1, 29.0, 30.0, 30.1, 59.9]), itertools.count()
    trimmer = HeapTrimmer(lambda: next(trims), monotonic=lambda: next(moments))
    for _ in range(4):
        trimmer.trim_if_due()
    assert next(trims) == 2


def test_the_c_librarys_own_trim_can_be_called():
    """Glibc's function says whether it gave memory back; another library's absence is told."""
    said = _malloc_trim()()
    is_there = hasattr(ctypes.CDLL(None), "malloc_trim")
    assert said in ((0, 1) if is_there else (None,))
