"""The devices that a local run's steps are planned on."""

import os

import pytest

from finetune.local_runs.training_fleet import machine_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("1000000\n", 1_000_000), ("max\n", MACHINE), (str(2 * MACHINE), MACHINE)],
)
def test_a_container_holds_what_it_may(tmp_path, limit, expected):
    """Its limit counts where it is a number and less than the machine has."""
    (tmp_path / "memory.max").write_text(limit)
    assert machine_bytes([tmp_path / "memory.max", tmp_path / "none"]) == expected
