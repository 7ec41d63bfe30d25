"""How many layers fit a GPU: counted by hand, and never more than there is room for."""

import pytest

from serving.engine.offload import OffloadSizes, decide_layers, most_layers, reserve_bytes
from serving.engine.pages import PAGE_TOKENS
from serving.errors import ModelError

SIZES = OffloadSizes(
    embedding_bytes=1000,
    layer_bytes=(500, 500, 700, 500),
    gpu_kv_bytes_per_token=2,
    cpu_kv_bytes_per_token=4,
    kv_bytes=16 * PAGE_TOKENS * 10,
)


def test_the_gpu_holds_embedding_layers_and_their_share_of_pages():
    """By hand: with 2 of 4 layers a token takes 12 bytes, so 13 pages and the null page."""
    assert SIZES.kv_bytes_per_token(2) == 2 * 2 + 2 * 4
    pages = 16 * 10 // 12 + 1
    assert SIZES.gpu_bytes(2) == 1000 + 1000 + 2 * 2 * PAGE_TOKENS * pages
    assert SIZES.gpu_bytes(0) == 0


def test_as_many_layers_as_fit_and_no_more():
    """For any memory the answer fits, and one layer more would not."""
    for available in range(0, 12_000, 50):
        count = most_layers(SIZES, available)
        assert SIZES.gpu_bytes(count) <= available
        assert count == 4 or SIZES.gpu_bytes(count + 1) > available


def decide(wanted, free_bytes=10**6, reserved_bytes=0) -> int:
    return decide_layers(
        wanted, SIZES, free_bytes=free_bytes, reserved_bytes=reserved_bytes, name="m"
    )


def test_auto_leaves_what_is_reserved():
    """The reserve lowers the count; a reserve above all there is leaves none."""
    assert decide("auto") == 4
    assert decide("auto", free_bytes=SIZES.gpu_bytes(3), reserved_bytes=1) == 2
    assert decide("auto", free_bytes=100, reserved_bytes=500) == 0


@pytest.mark.parametrize(
    ("wanted", "free_bytes", "message"),
    [
        (5, 10**6, "has 4 layers, --target-gpu-layers asks for 5; ask for at most 4"),
        (3, SIZES.gpu_bytes(3) - 1, "first 3 layers take .* at most 2 fit"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_numbers(wanted, free_bytes, message):
    """One line says what there is and what would do."""
    with pytest.raises(ModelError, match=message):
        decide(wanted, free_bytes=free_bytes)


def test_the_reserve_grows_with_the_largest_batch():
    """Activations of 512 rows of a 7B model take more than those of 64."""
    small, large = (
        reserve_bytes(most_rows=rows, hidden_size=4096, intermediate_size=11008)
        for rows in (64, 512)
    )
    assert 256 << 20 < small < large < 1 << 30
