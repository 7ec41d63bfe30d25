"""Weights of a mapped file leave memory once used, and lose nothing."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from serving.engine.mapped_weights import drop_pages, dropping_pages
from serving.engine.packing import replace_linears

WIDTH = 1024

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere nothing says what is mapped"
)


@pytest.fixture
def mapped(tmp_path) -> torch.Tensor:
    """Return a weight that lies in a mapped file, all of its pages in memory. Shape: (2048, 1024)."""
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    path.write_bytes(torch.randn(2 * WIDTH, WIDTH).numpy().tobytes())
    weight = torch.from_file(str(path), shared=False, size=2 * WIDTH * WIDTH).view(-1, WIDTH)
    weight.sum()
    return weight


def resident_bytes(weight: torch.Tensor) -> int:
    """Return how much of a mapped weight is in memory, as the system says."""
    begins = f"{weight.data_ptr():x}-"
    smaps = Path("/proc/self/smaps").read_text().splitlines()
    here = next(number for number, line in enumerate(smaps) if line.startswith(begins))
    found = next(line for line in smaps[here:] if line.startswith("Rss:"))
    return int(found.split()[1]) << 10


def test_a_mapped_weight_leaves_memory_and_keeps_its_contents(mapped):
    """Its pages are gone, and come back as they were."""
    before = mapped.clone()
    assert resident_bytes(mapped) == mapped.nbytes
    assert drop_pages(mapped) == mapped.nbytes
    assert resident_bytes(mapped) == 0
    assert torch.equal(mapped, before)


def test_a_file_of_the_hubs_cache_is_known_behind_its_link(tmp_path):
    """The hub keeps files under names without an ending and links to them."""
    blob = tmp_path / "blobs" / "0a1b"
    blob.parent.mkdir()
    blob.write_bytes(bytes(4 * WIDTH * WIDTH))
    link = tmp_path / "model.safetensors"
    link.symlink_to(blob)
    weight = torch.from_file(str(link), shared=False, size=WIDTH * WIDTH)
    assert drop_pages(weight) == weight.nbytes


def test_neighbours_in_the_file_stay(mapped):
    """Only whole pages of the tensor itself are dropped."""
    drop_pages(mapped[:WIDTH])
    assert resident_bytes(mapped) == mapped.nbytes // 2


@pytest.mark.parametrize("make", [torch.ones, torch.empty])
def test_other_memory_is_left_alone(make):
    """Memory without a file behind it would lose its contents."""
    asked = []
    assert drop_pages(make(WIDTH, WIDTH), advise=lambda *words: asked.append(words) or 0) == 0
    assert not asked


def test_a_system_without_a_list_of_mappings_is_no_support(mapped, tmp_path):
    """Nothing happens there."""
    assert drop_pages(mapped, maps=tmp_path / "maps") == 0


@torch.inference_mode()
def test_forwards_and_packing_leave_no_pages_behind(mapped):
    """A linear gives its pages back after use, and packs to the same layer as any other."""
    linear = nn.Linear(WIDTH, 2 * WIDTH, bias=False)
    linear.weight = nn.Parameter(mapped, requires_grad=False)
    model = nn.ModuleDict({"linear": linear})
    rows = torch.randn(3, WIDTH)
    with dropping_pages(model):
        product = linear(rows)
        assert resident_bytes(mapped) == 0
    assert torch.equal(linear(rows), product)
    assert resident_bytes(mapped) == mapped.nbytes, "only while it lasts"
    replace_linears(model, "float32")
    assert resident_bytes(mapped) == 0
    assert torch.allclose(model["linear"](rows), product, atol=1e-4)
