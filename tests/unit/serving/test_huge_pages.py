"""Large private memory is asked onto huge pages, and nothing else is."""

from pathlib import Path

from serving.engine.huge_pages import HUGE_PAGE_BYTES, collapse, huge_ranges

MIB = 1 << 20
MAPS = """\
00400000-00c00000 rw-p 00000000 fe:00 17 /usr/lib/libweights.so
10000000-10100000 rw-p 00000000 00:00 0
20100000-20900000 rw-p 00000000 00:00 0
30000000-30800000 r--p 00000000 00:00 0
40000000-40800000 rw-s 00000000 00:00 0
50000000-50400000 rw-p 00000000 00:00 0 [heap]
60000000-60400000 rw-p 00000000 00:00 0 [stack]
"""


def test_only_whole_huge_pages_of_private_unnamed_memory_and_the_heap_are_asked_for():
    """Files, read-only, shared and small mappings and the stack are left alone."""
    ranges = list(huge_ranges(MAPS.splitlines()))
    assert ranges == [(0x20200000, 6 * MIB), (0x50000000, 4 * MIB)]


def _process(folder: Path, huge_kibibytes: int) -> Path:
    (folder / "maps").write_text(MAPS)
    (folder / "smaps_rollup").write_text(f"Rss: 9 kB\nAnonHugePages: {huge_kibibytes} kB\n")
    return folder


def test_what_came_onto_huge_pages_is_logged(tmp_path: Path, caplog):
    """The system call may fail for a part: what counts is what the system says afterwards."""
    asked = []
    with caplog.at_level("INFO"):
        outcome = collapse(
            process=_process(tmp_path, 6144), advise=lambda *call: asked.append(call) or -1
        )
    assert asked == [(0x20200000, 6 * MIB, 25), (0x50000000, 4 * MIB, 25)]
    assert (outcome.asked_bytes, outcome.huge_bytes) == (10 * MIB, 6 * MIB)
    assert f"supported=yes asked_bytes={10 * MIB} huge_bytes={6 * MIB}" in caplog.text


def test_a_large_range_is_moved_in_pieces():
    """Each call is short, and together they cover the range."""
    ranges = list(huge_ranges(["40000000-65000000 rw-p 00000000 00:00 0"]))
    assert ranges == [(0x40000000, 256 * MIB), (0x50000000, 256 * MIB), (0x60000000, 80 * MIB)]


def test_nothing_is_moved_once_the_time_is_over(tmp_path: Path, caplog):
    """What is left stays on small pages, which the log counts."""
    times = iter([0.0, 1.0, 5.0, 6.0])
    with caplog.at_level("INFO"):
        outcome = collapse(
            process=_process(tmp_path, 6144),
            advise=lambda *_: 0,
            most_seconds=5,
            clock=lambda: next(times),
        )
    assert outcome.asked_bytes == 6 * MIB
    assert f"left_bytes={4 * MIB} seconds=6.0" in caplog.text


def test_a_system_that_moves_nothing_has_no_huge_pages(tmp_path: Path, caplog):
    """Then memory stays as it is and the log says so."""
    with caplog.at_level("INFO"):
        assert not collapse(process=_process(tmp_path, 0), advise=lambda *_: -1).huge_bytes
    assert "supported=no" in caplog.text


def test_a_system_without_a_list_of_mappings_is_not_asked(tmp_path: Path, caplog):
    """Other systems than Linux have no such file: logged, no error."""
    with caplog.at_level("INFO"):
        outcome = collapse(process=tmp_path, advise=lambda *_: 0)
    assert outcome.asked_bytes == 0
    assert "supported=no" in caplog.text


def test_memory_keeps_its_content():
    """On a system with huge pages the real call moves numbers and changes none."""
    numbers = bytearray(range(256)) * (4 * HUGE_PAGE_BYTES // 256)
    collapse()
    assert numbers == bytearray(range(256)) * (4 * HUGE_PAGE_BYTES // 256)
